"""The check: a store as the code leaves it is whole, and every kind of damage is found under its rule."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.memory.conftest import SetClock
from tests.memory.everything import CLOCK

from perdure.memory.errands.errand_records import group_of
from perdure.memory.schema import PAGE_SIZE_BYTES
from perdure.memory.store import Store, checkpoint, open_store
from perdure.memory.upkeep import integrity as rules
from perdure.memory.upkeep.integrity import RULES, SHOWN, StoreFinding, check, checked_counts
from perdure.memory.upkeep.prune import Keep, prune


def changed(store: Store, *statements: str) -> None:
    """Change rows behind the code's back."""
    store.conn.execute("PRAGMA foreign_keys = OFF")
    for statement in statements:
        store.rows(statement)
    store.conn.execute("PRAGMA foreign_keys = ON")


def found(store: Store) -> list[tuple[str, str, str]]:
    return [(finding.level, finding.rule, finding.subject) for finding in check(store, CLOCK)]


def test_a_store_that_the_code_made_is_whole(full: Store) -> None:
    assert check(full, CLOCK) == []
    assert checked_counts(full) == {"episodes": 12, "turns": 15, "versions": 4, "archives": 0, "shards": 0}


def test_the_rules_in_a_second_thread_find_the_same(full: Store) -> None:
    assert check(full, CLOCK, on_two_cores=True) == []
    changed(
        full, "DELETE FROM task WHERE id = 2", "UPDATE episode SET turns = 9 WHERE id = 3", "UPDATE turn SET reward = 7 WHERE episode = 1"
    )
    (full.home / "versions" / "v1" / "adapter_config.json").write_text("[]")
    found = check(full, CLOCK, on_two_cores=True)
    assert found == check(full, CLOCK)
    assert {finding.rule for finding in found} == {"foreign-keys", "turn-numbers", "version-files", "digests"}


def test_a_check_that_is_interrupted_ends_in_both_threads(full: Store) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(full, CLOCK, interrupt, on_two_cores=True)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("check")] == []
    assert check(full, CLOCK, on_two_cores=True) == []


def test_a_fresh_store_is_whole(store: Store) -> None:
    assert check(store, CLOCK) == []


@pytest.mark.parametrize(
    ("statement", "level", "rule", "subject"),
    [
        ("DELETE FROM task WHERE id = 2", "error", "foreign-keys", "episode 3"),
        ("UPDATE episode SET turns = 9 WHERE id = 3", "error", "turn-numbers", "episode 3"),
        ("DELETE FROM turn WHERE episode = 3 AND n = 2", "error", "turn-numbers", "episode 3"),
        ("UPDATE turn SET n = 7 WHERE episode = 3 AND n = 2", "error", "turn-numbers", "episode 3"),
        ("UPDATE turn SET n = -1 WHERE episode = 1", "error", "turn-numbers", "episode 1"),
        ("UPDATE turn SET shared = 6 WHERE episode = 3 AND n = 1", "error", "shared-tokens", "episode 3 turn 1"),
        ("UPDATE turn SET shared = 1 WHERE episode = 1", "error", "shared-tokens", "episode 1 turn 0"),
        ("UPDATE turn SET prompt_ids = x'010203' WHERE episode = 1", "error", "shared-tokens", "episode 1 turn 0"),
        ("UPDATE episode SET state = 'aborted' WHERE id = 6", "error", "batches", "job 1 step 1"),
        ("UPDATE episode SET seat = 1 WHERE id = 6", "error", "batches", "job 1 step 1"),
        ("UPDATE manifest SET episode = 9 WHERE episode = 1", "error", "batches", "job 1 step 2"),
        ("UPDATE episode SET state = 'env_error' WHERE id = 1", "error", "rewards", "episode 1"),
        ("UPDATE reward SET value = -9e999 WHERE episode = 6", "error", "rewards", "episode 6"),
        ("UPDATE reward SET episode = 99 WHERE episode = 6", "error", "foreign-keys", "reward None"),
        ("UPDATE version SET state = 'retired' WHERE state = 'serving'", "error", "serving-version", "no version"),
        ("UPDATE errand SET scores = '[1.0]' WHERE id = 1", "error", "errands", "errand 1"),
        ("UPDATE errand SET scores = '[1.0, 2.0]' WHERE id = 1", "error", "errands", "errand 1"),
        ("UPDATE errand SET scores = '{}' WHERE id = 1", "error", "errands", "errand 1"),
        ("UPDATE errand SET owner = NULL WHERE id = 2", "error", "errands", "errand 2"),
        ("DROP INDEX episode_one_completed_a_member", "error", "schema", "episode_one_completed_a_member"),
        ("DROP VIEW turn_text", "error", "schema", "turn_text"),
        ("CREATE TABLE notes (text TEXT) STRICT", "warning", "schema", "notes"),
        ("UPDATE version SET path = 'versions/v9' WHERE name = 'v3'", "error", "version-files", "v3"),
        ("UPDATE version SET hash = 'other' WHERE name = 'v1'", "error", "version-files", "v1"),
    ],
)
def test_a_change_behind_the_back_is_found(full: Store, statement: str, level: str, rule: str, subject: str) -> None:
    changed(full, statement)
    assert (level, rule, subject) in found(full)


def test_a_table_that_is_gone_is_found_and_does_not_stop_the_check(full: Store) -> None:
    changed(full, "DROP TABLE manifest", "UPDATE episode SET turns = 9 WHERE id = 3")
    seen = found(full)
    assert ("error", "schema", "manifest") in seen
    assert ("error", "batches", "perdure.db") in seen
    assert ("error", "turn-numbers", "episode 3") in seen


def remove(folder: str) -> Callable[[Path], None]:
    return lambda home: shutil.rmtree(home / "versions" / folder)


def damage(folder: str) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        file = home / "versions" / folder / "adapter_model.safetensors"
        file.write_bytes(b"X" + file.read_bytes()[1:])

    return change


def leave(path: str) -> Callable[[Path], None]:
    return lambda home: (home / path).mkdir(parents=True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (remove("v1"), [("error", "version-files", "v1")]),
        (remove("v3"), [("error", "version-files", "v3")]),
        (remove("v2"), []),
        (damage("v1"), [("error", "version-files", "v1")]),
        (damage("v2"), [("warning", "version-files", "v2")]),
        (leave("versions/.making-v4-77"), [("warning", "left-behind", "versions/.making-v4-77")]),
        (leave("versions/v9"), [("warning", "left-behind", "versions/v9")]),
        (leave("archive/.making-episodes-000001.parquet-77"), [("warning", "left-behind", "archive/.making-episodes-000001.parquet-77")]),
    ],
    ids=["serving gone", "pinned gone", "rejected gone", "serving damaged", "rejected damaged", "scratch", "stranger", "half an archive"],
)
def test_files_are_held_against_rows(full: Store, change: Callable[[Path], None], expected: list[tuple[str, str, str]]) -> None:
    change(full.home)
    assert found(full) == expected


def test_files_of_a_version_that_served_are_missed_as_a_warning_only(full: Store) -> None:
    changed(
        full,
        "UPDATE environment SET anchor = NULL",
        "UPDATE version SET state = 'retired', pinned = 0 WHERE name = 'v3'",
    )
    shutil.rmtree(full.home / "versions" / "v3")
    assert found(full) == [("warning", "version-files", "v3")]


def test_an_episode_whose_lease_has_ended_is_a_warning(full: Store) -> None:
    later = SetClock()
    later.now += 1000
    assert [(finding.level, finding.rule, finding.subject) for finding in check(full, later)] == [
        ("warning", "running-episodes", "episode 5")
    ]
    later.now -= 1000
    later.boot = "boot-2"
    assert [finding.rule for finding in check(full, later)] == ["running-episodes"]


def test_a_damaged_file_is_found(full: Store) -> None:
    with full.write() as conn:
        conn.executemany(
            "INSERT INTO event (kind, subject, message, happened_at) VALUES ('a', 'a', ?, 1)", [(str(n) * 40,) for n in range(2000)]
        )
    checkpoint(full)
    home = full.home
    full.close()
    size = (home / "perdure.db").stat().st_size
    with (home / "perdure.db").open("r+b") as file:
        file.seek(size - 10 * PAGE_SIZE_BYTES)
        file.write(os.urandom(9 * PAGE_SIZE_BYTES))
    with open_store(home) as damaged:
        findings = check(damaged, CLOCK)
    assert {finding.level for finding in findings if finding.rule == "integrity"} == {"error"}


def test_archives_are_looked_at(full: Store) -> None:
    prune(full, Keep(episodes=0, live=0), lambda line: None)
    assert [found for found in check(full, CLOCK) if found.rule == "archives"] == []
    (path,) = (full.home / "archive").iterdir()
    changed(
        full,
        """INSERT INTO episode (id, environment, seed, "group", member, purpose, attempt, version, step_job, step_n, temperature, state,
        started_at) SELECT 1, environment, seed, 'other', member, purpose, attempt, version, step_job, step_n, temperature, 'aborted',
        started_at FROM episode LIMIT 1""",
    )
    assert ("warning", "archives", f"archive/{path.name}") in found(full)
    path.write_bytes(path.read_bytes()[:-5])
    assert ("error", "archives", f"archive/{path.name}") in found(full)


def test_what_is_broken_often_is_not_listed_a_thousand_times() -> None:
    listed = rules.listed("a-rule", [("warning", f"one {n}", "") for n in range(30)] + [("error", "the worst", "")])
    assert len(listed) == SHOWN + 1
    assert listed[0] == StoreFinding(level="error", rule="a-rule", subject="the worst", message="")
    assert listed[-1].subject == "11 more"


def test_the_check_changes_nothing(full: Store) -> None:
    checkpoint(full)
    before = (full.home / "perdure.db").read_bytes()
    check(full, CLOCK)
    checkpoint(full)
    assert (full.home / "perdure.db").read_bytes() == before
    assert len(RULES) == 14


def test_an_errand_with_other_scores_than_its_episodes_is_found(full: Store) -> None:
    group = group_of(2, 1, "probe", 1, "v1", 0, 1)
    changed(full, f"UPDATE episode SET \"group\" = '{group}' WHERE \"group\" = 'probe-1'")
    assert found(full) == [], "1.0 and a second answer whose episode was pruned"
    changed(full, "UPDATE errand SET scores = '[0.5, null]' WHERE id = 1")
    assert found(full) == [("error", "errands", "errand 1")]
