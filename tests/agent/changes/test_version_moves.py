"""Versions as persons move them: what is answered, what is refused, and what is written down."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.agent.changes.conftest import ANNA, rows
from tests.memory.everything import candidate

from perdure.agent.changes import version_moves
from perdure.memory import processes, versions
from perdure.memory.changes import list_changes
from perdure.memory.errors import Conflict, InputError, RuntimeFailure, UnknownError
from perdure.memory.files import publish
from perdure.memory.store import Store


def states(store: Store) -> dict[str, str]:
    return {one.name: one.state for one in versions.list_versions(store)}


def test_a_rollback_and_a_promotion(full: Store) -> None:
    back = version_moves.rollback(full, ANNA, reason="worse", expected="v1")
    assert back == versions.as_json(versions.get_version(full, "v0"))
    assert (back["name"], back["state"]) == ("v0", "serving")
    again = version_moves.promote(full, ANNA, "v1", reason="not so bad", expected="v0")
    assert again == versions.as_json(versions.serving(full))
    assert [(move.kind, move.to_version, move.reason) for move in versions.moves(full)][-2:] == [
        ("rollback", "v0", "worse"),
        ("promote", "v1", "not so bad"),
    ]
    assert rows(full) == [("anna", "version rollback", "v0", "worse"), ("anna", "version promote", "v1", "not so bad")]
    assert [one.arguments for one in list_changes(full, 2)] == [
        {"version": "v1", "expected": "v0"},
        {"version": None, "expected": "v1"},
    ]


def test_a_rollback_to_a_version_by_name(full: Store) -> None:
    made = candidate(full)
    version_moves.promote(full, ANNA, made, reason="better")
    assert version_moves.rollback(full, ANNA, "v0", reason="both were worse", expected=made)["name"] == "v0"
    assert rows(full)[-1] == ("anna", "version rollback", "v0", "both were worse")


MOVES: tuple[Callable[[Store, str], object], ...] = (
    lambda store, expected: version_moves.rollback(store, ANNA, reason="worse", expected=expected),
    lambda store, expected: version_moves.promote(store, ANNA, "v3", reason="better", expected=expected),
    lambda store, expected: version_moves.reject(store, ANNA, "v3", reason="rude", expected=expected),
    lambda store, expected: version_moves.pin(store, ANNA, "v3", False, expected=expected),
)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("expected", ["v0", "v9", "", "v1 ", "\ud800", "x" * 10_000_000])
def test_if_another_version_serves_than_a_person_saw_nothing_is_changed(
    full: Store, move: Callable[[Store, str], object], expected: str
) -> None:
    before = (states(full), versions.get_version(full, "v3").pinned)
    with pytest.raises(Conflict, match="v1 serves now, no longer ") as refused:
        move(full, expected)
    assert len(str(refused.value)) < 300
    assert (states(full), versions.get_version(full, "v3").pinned) == before
    assert rows(full) == []


def test_a_version_that_serves_already_is_said_to(full: Store) -> None:
    with pytest.raises(Conflict, match="v1 serves already"):
        version_moves.promote(full, ANNA, "v1", reason="again")
    with pytest.raises(Conflict, match="v1 serves already"):
        version_moves.rollback(full, ANNA, "v1", reason="again")
    with pytest.raises(InputError, match="v3 is candidate and never served"):
        version_moves.rollback(full, ANNA, "v3", reason="back")
    with pytest.raises(InputError, match="v2 was rejected and never serves"):
        version_moves.promote(full, ANNA, "v2", reason="after all")
    assert rows(full) == []


def test_a_candidate_is_rejected_once_and_the_event_log_says_why(full: Store) -> None:
    assert version_moves.reject(full, ANNA, "v3", reason="right, and rude")["state"] == "rejected"
    assert [(one.subject, one.message) for one in processes.events(full) if one.kind == "rejected"] == [("v3", "right, and rude")]
    with pytest.raises(Conflict, match="v3 is rejected already: nothing was changed"):
        version_moves.reject(full, ANNA, "v3", reason="right, and rude")
    with pytest.raises(InputError, match="v1 is serving: only a candidate can be rejected"):
        version_moves.reject(full, ANNA, "v1", reason="rude")
    with pytest.raises(InputError, match="v3 was rejected and never serves"):
        version_moves.promote(full, ANNA, "v3", reason="after all")
    assert rows(full) == [("anna", "version reject", "v3", "right, and rude")]


def test_a_pin_and_its_end(full: Store) -> None:
    assert version_moves.pin(full, ANNA, "v0", reason="the first")["pinned"] is True
    assert version_moves.pin(full, ANNA, "v0", False)["pinned"] is False
    assert rows(full) == [("anna", "version pin", "v0", "the first"), ("anna", "version unpin", "v0", None)]


@pytest.mark.parametrize("name", ["v9", "", "../../etc/passwd", "v1; DROP TABLE version", "\ud800", "\0", "v" * 10_000_000])
def test_a_name_that_is_none_is_refused_in_a_line(full: Store, name: str) -> None:
    for ask in (
        lambda: version_moves.promote(full, ANNA, name, reason="better"),
        lambda: version_moves.rollback(full, ANNA, name, reason="better"),
        lambda: version_moves.reject(full, ANNA, name, reason="better"),
        lambda: version_moves.pin(full, ANNA, name),
    ):
        with pytest.raises(InputError) as refused:
            ask()
        assert isinstance(refused.value, UnknownError) or name == "\ud800"
        assert len(str(refused.value)) < 300
    assert rows(full) == []


@pytest.mark.parametrize("reason", ["", "  \n", "x" * 2001, "\ud800", "\0"])
def test_a_move_needs_a_reason_that_can_be_kept(full: Store, reason: str) -> None:
    for ask in (
        lambda: version_moves.promote(full, ANNA, "v3", reason=reason),
        lambda: version_moves.rollback(full, ANNA, reason=reason),
        lambda: version_moves.reject(full, ANNA, "v3", reason=reason),
        lambda: version_moves.pin(full, ANNA, "v0", reason=reason),
    ):
        with pytest.raises(InputError, match="the reason"):
            ask()
    assert rows(full) == []


def test_a_version_without_its_files_never_serves(full: Store) -> None:
    version_moves.rollback(full, ANNA, reason="worse")
    publish(full.home / "versions" / "v1", full.home / "versions" / "elsewhere")
    with pytest.raises(RuntimeFailure, match="the files of v1 are not in"):
        version_moves.promote(full, ANNA, "v1", reason="better")
    made = candidate(full)
    version_moves.promote(full, ANNA, made, reason="better")
    with full.write() as conn:  # as if v1 had served before it
        conn.execute("UPDATE move SET to_version = 'v1' WHERE kind = 'rollback'")
    with pytest.raises(RuntimeFailure, match="the files of v1 are not in"):
        version_moves.rollback(full, ANNA, reason="worse")
    assert versions.serving(full).name == made
    assert [what for _, what, _, _ in rows(full)] == ["version rollback", "version promote"]


def test_a_button_that_is_pressed_twice_moves_once(full: Store) -> None:
    first = version_moves.rollback(full, ANNA, reason="worse", expected="v1", key="press-1")
    assert version_moves.rollback(full, ANNA, reason="worse", expected="v1", key="press-1") == first
    assert versions.serving(full).name == "v0"
    assert len(rows(full)) == 1
    with pytest.raises(Conflict, match="the key 'press-1' stands for change 2, version rollback v0"):
        version_moves.promote(full, ANNA, "v1", reason="worse", key="press-1")
