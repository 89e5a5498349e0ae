"""Changes of persons: written with the change itself, and once for each key, also if processes die or several ask at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.memory.conftest import ADD
from tests.memory.everything import ANNA, CLOCK, candidate, fill

from perdure.memory import processes, tasks, versions
from perdure.memory.changes import KEY, MOST_REASON, MadeChange, Via, Who, answer_of, list_changes, perform
from perdure.memory.errors import Conflict, InputError, PerdureError, Unavailable
from perdure.memory.json_value import Document
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.upkeep.integrity import check

BOUNDED = settings(max_examples=40, deadline=None, derandomize=True)

PAUSES = """
import json, sys
from pathlib import Path
from perdure.memory import processes
from perdure.memory.changes import Who, perform
from perdure.memory.store import open_store

home, name, keyed = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
with open_store(home) as store:
    for n in range(1, 1000):
        def change():
            processes.record_event(store, "paused", name, str(n))
            return name, {"n": n}
        print(json.dumps(perform(store, change, by=Who(name=name, via="api"), what="pause", arguments={}, key=keyed[0] if keyed else None)))
        sys.stdout.flush()
        if keyed:
            break
"""
"""Writes an event for each change; under a key only one."""

ROLLBACK = """
import sys, time
from pathlib import Path
from perdure.agent.changes.version_moves import rollback
from perdure.memory.changes import Who
from perdure.memory.store import open_store

with open_store(Path(sys.argv[1])) as store:
    time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
    print(rollback(store, Who(name=sys.argv[3], via="page"), reason="worse", expected="v2")["name"])
"""


def process(script: str, *arguments: object, fault: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PERDURE_FAULT": fault}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def events(store: Store) -> list[tuple[str, str]]:
    return [(one.subject, one.message) for one in reversed(processes.events(store, 10_000)) if one.kind == "paused"]


def pinned(store: Store, by: Who = ANNA, name: str = "v0", reason: str | None = None, key: str | None = None) -> Document:
    def change() -> tuple[str, Document]:
        return name, versions.as_json(versions.pin(store, name))

    return perform(store, change, by=by, what="version pin", arguments={"version": name}, reason=reason, key=key)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with create_store(tmp_path / "home") as store:
        versions.add_initial(store, "tiny", "hash-of-tiny")
    return tmp_path / "home"


def test_a_change_is_written_down_with_who_what_and_why(home: Path) -> None:
    with open_store(home) as store:
        before = time.time()
        answer = pinned(store, reason="the first", key="k1")
        assert answer["name"] == "v0"
        assert answer["pinned"] is True
        (found,) = list_changes(store)
        assert before <= found.made <= time.time()
        assert found == MadeChange(
            id=1,
            key="k1",
            who="anna",
            via="page",
            what="version pin",
            subject="v0",
            arguments={"version": "v0"},
            reason="the first",
            made=found.made,
        )
        assert check(store, CLOCK) == []


def test_the_list_begins_with_the_newest_and_goes_back_page_by_page(home: Path) -> None:
    with open_store(home) as store:
        for n in range(1, 8):
            pinned(store, Who(name=f"person {n}", via="api"))
        assert [one.id for one in list_changes(store, 3)] == [7, 6, 5]
        assert [one.id for one in list_changes(store, 3, before=5)] == [4, 3, 2]
        assert [one.who for one in list_changes(store, 3, before=2)] == ["person 1"]
        assert list_changes(store, 0) == []
        with pytest.raises(InputError, match="a number is too large"):
            list_changes(store, 3, before=10**30)


def test_the_same_request_under_its_key_changes_nothing_and_gets_the_first_answer(home: Path) -> None:
    with open_store(home) as store:
        first = pinned(store, reason="why", key="k1")
        versions.pin(store, "v0", False)
        assert answer_of(store, "k1", what="version pin", arguments={"version": "v0"}, reason="why") == first
        assert pinned(store, Who(name="berta", via="api"), reason="why", key="k1") == first
        assert versions.get_version(store, "v0").pinned is False
        assert len(list_changes(store)) == 1
        assert pinned(store, reason="why", key="k2")["pinned"] is True
        assert len(list_changes(store)) == 2


def test_a_key_stands_for_one_request(home: Path) -> None:
    with open_store(home) as store:
        pinned(store, reason="why", key="k1")
        for what, arguments, reason in (
            ("version unpin", {"version": "v0"}, "why"),
            ("version pin", {"version": "v1"}, "why"),
            ("version pin", {"version": "v0", "more": None}, "why"),
            ("version pin", {"version": "v0"}, "another"),
            ("version pin", {"version": "v0"}, None),
        ):
            with pytest.raises(Conflict, match="the key 'k1' stands for change 1, version pin v0: give each change a key of its own"):
                perform(store, _never, by=ANNA, what=what, arguments=arguments, reason=reason, key="k1")
        assert len(list_changes(store)) == 1


def _never() -> tuple[str, Document]:
    raise AssertionError("was called")


def test_a_change_that_fails_leaves_neither_change_nor_row_and_its_key_is_free(home: Path) -> None:
    def half() -> tuple[str, Document]:
        versions.pin(store, "v0")
        raise InputError("the second half cannot be done")

    with open_store(home) as store:
        with pytest.raises(InputError, match="the second half"):
            perform(store, half, by=ANNA, what="version pin", arguments={}, key="k1")
        assert versions.get_version(store, "v0").pinned is False
        assert list_changes(store) == []
        assert pinned(store, key="k1")["pinned"] is True


def test_on_a_full_disk_nothing_is_changed_and_the_person_is_told(home: Path) -> None:
    def change() -> tuple[str, Document]:
        processes.record_event(store, "paused", "play", "x" * 3000)
        return "play", {}

    with open_store(home) as store:
        (pages,) = store.rows("PRAGMA page_count")[0]
        store.db.execute(f"PRAGMA max_page_count = {pages + 3}")

        def until_it_is_full() -> None:
            for n in range(1000):
                perform(store, change, by=ANNA, what="pause", arguments={}, reason="y" * MOST_REASON, key=f"k{n}")

        with pytest.raises(Unavailable, match="is full: nothing was written; free some space"):
            until_it_is_full()
        assert 0 < len(events(store)) == len(list_changes(store, 1000)) < 1000
        store.db.execute("PRAGMA max_page_count = 100000")
        perform(store, change, by=ANNA, what="pause", arguments={}, reason="y" * MOST_REASON, key=f"k{len(events(store))}")
        assert len(events(store)) == len(list_changes(store, 1000))


def test_what_is_kept_without_a_key_has_no_answer(home: Path) -> None:
    """The answer to a hundred thousand tasks is many megabytes; only a request with a key asks for it again."""
    with open_store(home) as store:
        pinned(store)
        pinned(store, key="k1")
        assert [row["answer"] is None for row in store.rows("SELECT answer FROM change ORDER BY id")] == [True, False]


@pytest.mark.processes
def test_a_process_that_dies_in_the_middle_leaves_neither(home: Path) -> None:
    dead = process(PAUSES, home, "first", fault="mid-change:3")
    said, _ = dead.communicate(timeout=60)
    assert dead.returncode == -signal.SIGKILL
    assert [json.loads(line)["n"] for line in said.splitlines()] == [1, 2]
    with open_store(home) as store:
        assert events(store) == [("first", "1"), ("first", "2")]
        assert [one.subject for one in list_changes(store)] == ["first", "first"]
        assert check(store, CLOCK) == []


@pytest.mark.processes
def test_a_process_that_dies_at_any_moment_leaves_both_or_none(home: Path) -> None:
    random = Random(21)
    for life in range(6):
        name = f"life-{life}"
        running = process(PAUSES, home, name)
        assert running.stdout is not None
        assert running.stdout.readline()
        time.sleep(random.uniform(0.0, 0.05))
        running.kill()
        said, _ = running.communicate(timeout=60)
        told = 1 + len(said.splitlines())
        with open_store(home) as store:
            written = [message for subject, message in events(store) if subject == name]
            assert len(written) == sum(one.subject == name for one in list_changes(store, 10_000))
            assert written == [str(n) for n in range(1, len(written) + 1)]
            assert told <= len(written) <= told + 1 or not said.endswith("\n"), "what was answered is there"
    with open_store(home) as store:
        assert check(store, CLOCK) == []


@pytest.mark.processes
def test_one_of_many_processes_makes_the_change_of_a_key(home: Path) -> None:
    running = [process(PAUSES, home, f"process-{n}", "k1") for n in range(6)]
    said = [one.communicate(timeout=120) for one in running]
    assert [one.returncode for one in running] == [0] * 6, said
    assert {out for out, _ in said} == {'{"n": 1}\n'}
    with open_store(home) as store:
        ((subject, _),) = events(store)
        (made,) = list_changes(store)
        assert (made.subject, made.who) == (subject, subject)


@pytest.mark.processes
def test_of_two_persons_who_roll_back_at_once_one_is_told_that_it_was_done(home: Path) -> None:
    with open_store(home) as store:
        for name in ("v1", "v2"):
            folder = home / "versions" / name
            folder.mkdir(parents=True)
            versions.add_candidate(store, None, name, "v0", f"hash-{name}", f"versions/{name}", [], None)
            versions.promote(store, name, "better")
    running = [process(ROLLBACK, home, time.time() + 2.0, name) for name in ("anna", "berta")]
    said = [one.communicate(timeout=60) for one in running]
    assert Counter(one.returncode for one in running) == {0: 1, 1: 1}
    assert {out for out, _ in said} == {"v1\n", ""}
    assert sum("Conflict: v1 serves now, no longer v2: look at what has changed, and ask again" in err for _, err in said) == 1
    with open_store(home) as store:
        assert versions.serving(store).name == "v1"
        assert [one.what for one in list_changes(store)] == ["version rollback"]


odd = ["", " \n", "\0", "\ud800", "\x1b[31m", "\u202e", "'; DROP TABLE change; --"]
hostile = st.text(st.characters(), max_size=60) | st.sampled_from(odd)


@BOUNDED
@given(st.lists(st.tuples(hostile, hostile, st.none() | hostile, st.none() | hostile), min_size=1, max_size=8))
def test_fuzz_what_is_kept_is_read_as_it_was_given_and_all_else_is_refused(
    tmp_path_factory: pytest.TempPathFactory, given_: Sequence[tuple[str, str, str | None, str | None]]
) -> None:
    home = tmp_path_factory.mktemp("fuzz") / "home"
    with create_store(home) as store:
        kept: list[tuple[str, str, str | None, str | None]] = []
        for who, subject, reason, key in given_:
            try:
                perform(
                    store,
                    lambda subject=subject: (subject, {"said": subject}),  # type: ignore[misc]
                    by=Who(name=who, via="api"),
                    what="pause",
                    arguments={"subject": subject},
                    reason=reason,
                    key=key,
                )
            except PerdureError:
                continue
            if key not in [earlier[3] for earlier in kept] or key is None:
                kept.append((who, subject, reason, key))
        assert [(one.who, one.subject, one.reason, one.key) for one in reversed(list_changes(store))] == kept
        assert [one.arguments for one in reversed(list_changes(store))] == [{"subject": subject} for _, subject, _, _ in kept]
        assert [one for one in check(store, CLOCK) if one.level == "error"] == []
        for _, subject, reason, key in kept:
            if key is not None:
                again = answer_of(store, key, what="pause", arguments={"subject": subject}, reason=reason)
                assert again == {"said": subject}


@pytest.mark.parametrize(
    ("by", "reason", "key", "says"),
    [
        (ANNA, "", None, "the reason is empty"),
        (ANNA, " \n\t", None, "the reason is empty"),
        (ANNA, "x" * (MOST_REASON + 1), None, "the reason has 2001 characters: 2000 at most are kept"),
        (ANNA, "x" * 10_000_000, None, "the reason has 10000000 characters"),
        (ANNA, "half \udc80", None, "not valid Unicode"),
        (ANNA, "a\0b", None, "not valid Unicode"),
        (ANNA, None, "", "is no key"),
        (ANNA, None, "two words", "is no key"),
        (ANNA, None, "é", "is no key"),
        (ANNA, None, "k\n", "is no key"),
        (ANNA, None, "k" * 201, "is no key"),
        (ANNA, None, "k" * 10_000_000, "is no key"),
        (Who(name="", via="api"), None, None, "is no name of a person"),
        (Who(name="n" * 10_000_000, via="api"), None, None, "is no name of a person"),
        (Who(name="\ud800", via="api"), None, None, "is no name of a person"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_is_changed(
    home: Path, by: Who, reason: str | None, key: str | None, says: str
) -> None:
    with open_store(home) as store:
        with pytest.raises(InputError, match=says) as refused:
            perform(store, _never, by=by, what="version pin", arguments={}, reason=reason, key=key)
        assert len(str(refused.value)) < 300, "an error does not repeat megabytes"
        assert list_changes(store) == []


def test_the_longest_reason_and_key_are_kept(home: Path) -> None:
    with open_store(home) as store:
        reason, key = "é" * MOST_REASON, "~" * 200
        assert KEY.fullmatch(key)
        pinned(store, reason=reason, key=key)
        (found,) = list_changes(store)
        assert (found.reason, found.key) == (reason, key)


@pytest.mark.parametrize("via", ["command", "api", "page"])
def test_the_way_by_which_it_came_is_kept(home: Path, via: Via) -> None:
    with open_store(home) as store:
        pinned(store, Who(name="anna", via=via))
        assert list_changes(store)[0].via == via


def test_changes_of_a_full_home_stay_readable(tmp_path: Path) -> None:
    with create_store(tmp_path / "home") as store:
        fill(store)
        (row,) = list_changes(store)
        assert (row.who, row.subject, row.reason) == ("anna", "v3", "é “so”")
        made = candidate(store)
        pinned(store, name=made)
        tasks.add_tasks(store, ADD, [1], 1, "person")
        assert [one.subject for one in list_changes(store)] == [made, "v3"]
