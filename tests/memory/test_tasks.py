"""Tasks and their leases: order, taking over, fencing, and giving up."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from perdure.memory import leases, tasks
from perdure.memory.errors import InputError, LeaseLost, UnknownError
from perdure.memory.json_value import iso_utc
from perdure.memory.leases import BootClock
from perdure.memory.store import Store
from perdure.memory.trajectories.episodes import get_episode
from perdure.memory.trajectories.journal import StoreJournal

ADD = "perdure:add"


def test_what_a_person_asked_for_goes_first(store: Store, clock) -> None:
    tasks.add_tasks(store, ADD, [1, 2], 4, "stream")
    asked = tasks.add_tasks(store, ADD, [3], 4, "person")
    leased = tasks.lease_tasks(store, "actor", 2, 60, clock)
    assert [task.seed for task, _ in leased] == [3, 1]
    assert leased[0][0].id == asked[0] == leased[0][1].subject
    assert leased[0][0].members == 4
    assert tasks.counts(store) == {"queued": 1, "running": 2, "done": 0, "failed": 0}


def test_a_task_of_an_unknown_environment_is_refused(store: Store) -> None:
    with pytest.raises(UnknownError, match=r"perdure:ad'.*perdure:add"):
        tasks.add_tasks(store, "perdure:ad", [1], 1, "stream")
    with pytest.raises(InputError, match="a seed cannot be negative: -4"):
        tasks.add_tasks(store, ADD, [1, -4], 1, "stream")
    assert tasks.list_tasks(store) == []


def test_one_task_has_one_owner(store: Store, clock, player) -> None:
    lease = player.task()
    assert tasks.lease_tasks(store, "other", 9, 60, clock) == []
    clock.now += 59
    leases.renew(store, "task", lease, 60, clock)
    clock.now += 59
    assert tasks.lease_tasks(store, "other", 9, 60, clock) == []


def test_leases_are_kept_all_or_none(store: Store, clock, player) -> None:
    kept, lost = player.task("actor"), player.task("actor")
    tasks.release_task(store, lost)
    clock.now += 59
    with pytest.raises(LeaseLost, match=f"task {lost.subject}: actor lost its lease"), store.write():
        leases.check_and_renew(store, "task", [kept, lost], 60, clock)
    clock.now += 2
    assert {task.id for task, _ in tasks.lease_tasks(store, "other", 9, 60, clock)} == {kept.subject, lost.subject}


def test_a_lease_is_extended_once_a_quarter_of_its_time_is_gone(store: Store, clock, player) -> None:
    held = [player.task("actor"), player.task("actor")]

    def until() -> set[float]:
        return {row["lease_until"] for row in store.rows("SELECT lease_until FROM task")}

    clock.now += 15
    leases.check_and_renew(store, "task", held, 60, clock)
    assert until() == {160.0}
    clock.now += 1
    leases.check_and_renew(store, "task", held, 60, clock)
    assert until() == {176.0}
    clock.boot = "boot-2"
    leases.check_and_renew(store, "task", held, 60, clock)
    assert {row["boot_id"] for row in store.rows("SELECT boot_id FROM task")} == {"boot-2"}


def test_a_lapsed_lease_is_taken_over_and_the_old_owner_writes_nothing(store: Store, clock, player) -> None:
    old = player.task("first")
    writer = StoreJournal(store, clock)
    (episode,) = writer.start([player.plan(old, "g")])
    writer.turns([(episode, 0, player.turn())])
    clock.now += 1000
    ((task, new),) = tasks.lease_tasks(store, "second", 1, 60, clock)
    assert (task.id, new.attempt) == (old.subject, 2)
    for write in (
        lambda: writer.turns([(episode, 1, player.turn((1, 2, 3, 4, 5, 6)))]),
        lambda: writer.finish([player.ending(episode)]),
        lambda: writer.start([player.plan(old, "g", 1)]),
        lambda: tasks.finish_task(store, old),
        lambda: tasks.release_task(store, old),
        lambda: tasks.retry_task(store, old, "x"),
        lambda: leases.renew(store, "task", old, 60, clock),
    ):
        with pytest.raises(LeaseLost, match=r"first lost its lease \(attempt 1; second holds it now, as attempt 2\)"):
            write()
    kept = get_episode(store, episode)
    assert (kept.state, kept.stop_reason, len(kept.turns)) == ("aborted", "interrupted", 1)
    assert player.group(new, "g", [1.0, 0.0])
    tasks.finish_task(store, new)
    assert tasks.counts(store)["done"] == 1


def test_a_reboot_ends_every_lease(store: Store, clock, player) -> None:
    player.task("first")
    clock.now, clock.boot = 1.0, "boot-2"
    assert len(tasks.lease_tasks(store, "second", 1, 60, clock)) == 1


def test_the_same_owner_under_an_older_attempt_is_fenced_too(store: Store, clock, player) -> None:
    old = player.task("actor")
    clock.now += 1000
    ((_, new),) = tasks.lease_tasks(store, "actor", 1, 60, clock)
    with pytest.raises(LeaseLost):
        tasks.finish_task(store, old)
    tasks.finish_task(store, new)


def test_after_three_failures_a_task_is_failed_with_the_reason(store: Store, clock, player) -> None:
    lease = player.task()
    for attempt in (1, 2):
        tasks.retry_task(store, lease, f"failure {attempt}")
        ((task, lease),) = tasks.lease_tasks(store, "actor", 1, 60, clock)
        assert task.attempt == attempt + 1
    tasks.retry_task(store, lease, "failure 3")
    assert tasks.lease_tasks(store, "actor", 1, 60, clock) == []
    (found,) = tasks.list_tasks(store)
    assert (found.task.state, found.task.error) == ("failed", "failure 3")


def test_after_three_deaths_a_task_is_failed(store: Store, clock, player) -> None:
    player.task()
    for _ in range(2):
        clock.now += 1000
        assert len(tasks.lease_tasks(store, "actor", 1, 60, clock)) == 1
    clock.now += 1000
    assert tasks.lease_tasks(store, "actor", 1, 60, clock) == []
    assert tasks.counts(store)["failed"] == 1


def test_an_orderly_stop_counts_as_no_attempt(store: Store, clock, player) -> None:
    lease = player.task()
    writer = StoreJournal(store, clock)
    (episode,) = writer.start([player.plan(lease, "g")])
    for _ in range(10):
        tasks.release_task(store, lease)
        ((_, lease),) = tasks.lease_tasks(store, "actor", 1, 60, clock)
    assert get_episode(store, episode).state == "aborted"
    with pytest.raises(LeaseLost):
        writer.finish([player.ending(episode)])


def test_what_a_dead_process_held_can_be_let_go_at_once(store: Store, clock, player) -> None:
    mine, theirs = player.task("dead"), player.task("alive")
    assert leases.end_leases_of(store, "dead") == 1
    ((_, taken),) = tasks.lease_tasks(store, "next", 9, 60, clock)
    assert taken.subject == mine.subject
    tasks.finish_task(store, theirs)


def test_a_task_is_listed_with_its_episodes(store: Store, player) -> None:
    lease = player.task()
    ids = player.group(lease, "g", [1.0, 0.0])
    tasks.finish_task(store, lease)
    (found,) = tasks.list_tasks(store)
    assert abs(time.time() - found.created) < 60
    assert found.as_json() == {
        "id": lease.subject,
        "environment": ADD,
        "seed": 7,
        "state": "done",
        "source": "stream",
        "stage": None,
        "members": 2,
        "attempt": 1,
        "error": None,
        "episodes": ids,
        "created": iso_utc(found.created),
    }


CONTENDER = """
import sys
from pathlib import Path
from perdure.memory import tasks
from perdure.memory.json_value import iso_utc
from perdure.memory.leases import BootClock
from perdure.memory.store import open_store
store, owner = open_store(Path(sys.argv[1])), sys.argv[2]
first = True
while leased := tasks.lease_tasks(store, owner, 1, 60, BootClock()):
    for task, lease in leased:
        tasks.finish_task(store, lease)
        print(task.id, flush=True)
    if first:
        first = False
        sys.stdin.readline()
"""


@pytest.mark.processes
def test_two_processes_never_hold_the_same_task(store: Store) -> None:
    ids = tasks.add_tasks(store, ADD, list(range(60)), 1, "stream")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(store.home), owner], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for owner in ("left", "right")
    ]
    took: list[list[int]] = []
    for process in processes:  # each holds one, and then both go on at the same time
        assert process.stdout is not None
        took.append([int(process.stdout.readline())])
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process, mine in zip(processes, took, strict=True):
        mine += [int(line) for line in process.communicate(timeout=60)[0].splitlines()]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(took[0] + took[1]) == ids, "each task once"
    attempts = store.rows("SELECT DISTINCT attempt, state FROM task")
    assert [tuple(row) for row in attempts] == [(1, "done")]


def test_the_boot_clock_goes_on_and_knows_its_boot() -> None:
    clock = BootClock()
    first = clock.now_s()
    assert clock.now_s() >= first > 0
    assert clock.boot_id() == clock.boot_id() != ""
