"""Pauses as persons begin and end them."""

from __future__ import annotations

import pytest
from tests.agent.changes.conftest import ANNA, rows

from perdure.agent.changes.pauses import pause, resume
from perdure.memory import processes
from perdure.memory.errors import Conflict, InputError
from perdure.memory.store import Store


def paused(store: Store) -> dict[str, str]:
    return {one.what: one.reason for one in processes.pauses(store)}


def test_play_and_learning_are_paused_and_resumed(full: Store) -> None:
    listed = pause(full, ANNA, "learning", reason="the machine is needed")
    assert [(one["what"], one["reason"]) for one in listed] == [("learning", "the machine is needed")]
    assert listed == [one.as_json() for one in processes.pauses(full)]
    assert [one["what"] for one in pause(full, ANNA, reason="all of it")] == ["learning", "play"]
    assert paused(full) == {"learning": "all of it", "play": "all of it"}
    assert [one["what"] for one in resume(full, ANNA, "learning", reason="free again")] == ["play"]
    assert resume(full, ANNA) == []
    assert rows(full) == [
        ("anna", "pause", "learning", "the machine is needed"),
        ("anna", "pause", "play and learning", "all of it"),
        ("anna", "resume", "learning", "free again"),
        ("anna", "resume", "play", None),
    ]


def test_what_is_not_paused_cannot_be_resumed(full: Store) -> None:
    pause(full, ANNA, "play", reason="a look")
    with pytest.raises(Conflict, match="learning is not paused"):
        resume(full, ANNA, "learning")
    resume(full, ANNA)
    with pytest.raises(Conflict, match="nothing is paused"):
        resume(full, ANNA)
    assert [what for _, what, _, _ in rows(full)] == ["pause", "resume"]


@pytest.mark.parametrize("what", ["", "everything", "play; DROP TABLE pause", "\ud800", "p" * 10_000_000])
def test_nothing_else_can_be_paused(full: Store, what: str) -> None:
    for ask in (lambda: pause(full, ANNA, what, reason="why"), lambda: resume(full, ANNA, what)):  # type: ignore[arg-type]
        with pytest.raises(InputError, match="cannot be paused: name play or learning") as refused:
            ask()
        assert len(str(refused.value)) < 300
    assert rows(full) == []


def test_a_pause_needs_a_reason(full: Store) -> None:
    with pytest.raises(InputError, match="the reason is empty: say why"):
        pause(full, ANNA, "play", reason=" ")
    assert (paused(full), rows(full)) == ({}, [])


def test_a_pause_that_is_asked_for_twice_under_one_key_is_made_once(full: Store) -> None:
    first = pause(full, ANNA, "play", reason="a look", key="k")
    resume(full, ANNA)
    assert pause(full, ANNA, "play", reason="a look", key="k") == first
    assert paused(full) == {}, "the answer is that of then"
