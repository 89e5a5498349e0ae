"""Writes that were committed but not acknowledged: the same call again changes nothing, or is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from tests.results import TERMS, gate_result, learn_result

from perdure.memory import environments, gates, jobs, leases, tasks, versions
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.errors import InputError, LeaseLost, RuntimeFailure
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.records import Lease, Pair
from perdure.memory.store import Store
from perdure.memory.trajectories import manifests
from perdure.memory.trajectories.journal import StoreJournal

ADD = "perdure:add"
T = TypeVar("T")


class NotAcknowledged(Exception):
    """The transaction was committed, but its caller gets this error."""


class UnacknowledgedStore(Store):
    """A store that can commit the next transaction and then raise, as if it had failed."""

    flaky = False

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        outermost = not self.conn.in_transaction
        with super().write() as conn:
            yield conn
        if outermost and self.flaky:
            self.flaky = False
            raise NotAcknowledged


@pytest.fixture
def flaky(store: Store) -> UnacknowledgedStore:
    return UnacknowledgedStore(store.home, store.conn)


def content(store: Store) -> dict[str, list[Any]]:
    """Every row of every table."""
    tables = [row["name"] for row in store.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {name: [tuple(row) for row in store.rows(f"SELECT * FROM {name}")] for name in tables}


def unacknowledged(store: UnacknowledgedStore, call: Callable[[], T]) -> dict[str, list[Any]]:
    """Make a call whose commit is not acknowledged. Returns the content of the store after it."""
    store.flaky = True
    with pytest.raises(NotAcknowledged):
        call()
    return content(store)


def again(store: UnacknowledgedStore, call: Callable[[], T]) -> T:
    """Make a call whose commit is not acknowledged, then the same call again: the second one changes nothing."""
    before = unacknowledged(store, call)
    answer = call()
    assert content(store) == before
    return answer


@pytest.fixture
def job(flaky: UnacknowledgedStore, clock) -> Lease:
    jobs.add_job(flaky, "k", [ADD], LearnOrder(learner="grpo"))
    leased = jobs.lease_job(flaky, "learner", 60, clock)
    assert leased is not None
    return leased[1]


def test_episodes_of_an_unacknowledged_start_are_aborted_with_their_lease(flaky: UnacknowledgedStore, clock, player) -> None:
    old = player.task("first")
    plan = player.plan(old, "g")
    unacknowledged(flaky, lambda: StoreJournal(flaky, clock).start([plan]))
    clock.now += 1000
    ((_, new),) = tasks.lease_tasks(flaky, "second", 1, 60, clock)
    ids = StoreJournal(flaky, clock).start([dataclasses.replace(plan, lease=new)])
    assert [tuple(row) for row in flaky.rows("SELECT id, state FROM episode ORDER BY id")] == [(1, "aborted"), (ids[0], "running")]


def test_an_unacknowledged_journal_call_is_never_written_twice(flaky: UnacknowledgedStore, clock, player) -> None:
    """Its process ends with the error. If it went on all the same, the store would refuse it."""
    writer = StoreJournal(flaky, clock)
    lease = player.task()
    (episode,) = writer.start([player.plan(lease, "g")])
    before = unacknowledged(flaky, lambda: writer.turns([(episode, 0, player.turn())]))
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        writer.turns([(episode, 0, player.turn(action=(9, 9)))])
    assert content(flaky) == before
    before = unacknowledged(flaky, lambda: writer.finish([player.ending(episode)]))
    with pytest.raises(RuntimeFailure, match="is completed already"):
        writer.finish([player.ending(episode, reward=0.0)])
    assert content(flaky) == before


def test_a_batch_has_one_manifest(flaky: UnacknowledgedStore, clock, player, job: Lease) -> None:
    ids = player.group(job, "g", [1.0, 0.0], purpose="learn")
    again(flaky, lambda: manifests.write_manifest(flaky, job, 1, ids, True))
    assert len(manifests.manifests(flaky, job.subject)) == 1


@pytest.mark.parametrize(
    "end",
    [
        lambda store, lease: jobs.finish_job(store, lease, learn_result(None), None),
        jobs.release_job,
        lambda store, lease: jobs.fail_job(store, lease, "x"),
    ],
)
def test_the_end_of_a_job_is_written_once(flaky: UnacknowledgedStore, job: Lease, end: Callable[[Store, Lease], None]) -> None:
    before = unacknowledged(flaky, lambda: end(flaky, job))
    with pytest.raises(LeaseLost):
        end(flaky, job)
    assert content(flaky) == before


def test_a_job_is_queued_once_under_its_key(flaky: UnacknowledgedStore) -> None:
    first = again(flaky, lambda: jobs.add_job(flaky, "tonight", [ADD], LearnOrder(learner="grpo")))
    assert jobs.add_job(flaky, "tomorrow", [ADD], LearnOrder(learner="grpo")) != first


def test_pairs_verdict_and_promotion_are_one_each(flaky: UnacknowledgedStore, job: Lease) -> None:
    (flaky.home / "versions" / "v1").mkdir()
    again(flaky, lambda: versions.add_candidate(flaky, job, "v1", "v0", "h", "versions/v1", [ADD], job.subject))
    gate = again(flaky, lambda: gates.start_gate(flaky, job, "v1", "v0", "standard", TERMS))
    pair = Pair(environment=ADD, role="earlier", draw=0, seed=9, reference="v0", reference_score=1.0, candidate_score=1.0, difference=0.0)
    again(flaky, lambda: gates.add_pairs(flaky, job, gate, [pair, dataclasses.replace(pair, draw=1, seed=10)]))
    again(flaky, lambda: gates.close_gate(flaky, job, gate_result(gate=gate)))
    again(flaky, lambda: versions.promote(flaky, "v1", "it holds", gate=gate, lease=job))
    assert [move.to_version for move in versions.moves(flaky)] == ["v0", "v1"]
    assert environments.list_environments(flaky)[0].anchor == "v1"


def test_a_rollback_to_a_named_version_is_made_once(flaky: UnacknowledgedStore, add_version) -> None:
    for _ in range(2):
        versions.promote(flaky, add_version(versions.serving(flaky).name), "better")
    before = unacknowledged(flaky, lambda: versions.rollback(flaky, "v1", "harm"))
    with pytest.raises(InputError, match="v1 serves already"):
        versions.rollback(flaky, "v1", "harm")
    assert content(flaky) == before
    before = unacknowledged(flaky, lambda: versions.promote(flaky, "v2", "no harm"))
    with pytest.raises(InputError, match="v2 serves already"):
        versions.promote(flaky, "v2", "no harm")
    assert content(flaky) == before


@pytest.mark.parametrize("end", [tasks.finish_task, tasks.release_task, lambda store, lease: tasks.retry_task(store, lease, "x")])
def test_the_end_of_a_task_is_written_once(flaky: UnacknowledgedStore, player, end: Callable[[Store, Lease], None]) -> None:
    lease = player.task()
    before = unacknowledged(flaky, lambda: end(flaky, lease))
    with pytest.raises(LeaseLost):
        end(flaky, lease)
    assert content(flaky) == before


def test_tasks_that_were_leased_unacknowledged_come_back_when_their_process_is_dead(flaky: UnacknowledgedStore, clock) -> None:
    tasks.add_tasks(flaky, ADD, [1, 2], 1, "stream")
    unacknowledged(flaky, lambda: tasks.lease_tasks(flaky, "actor:1", 1, 60, clock))
    assert [task.id for task, _ in tasks.lease_tasks(flaky, "actor:1", 9, 60, clock)] == [2]
    leases.end_leases_of(flaky, "actor:1")
    assert [task.id for task, _ in tasks.lease_tasks(flaky, "actor:2", 9, 60, clock)] == [1, 2]


def test_a_lease_that_the_supervisor_ended_is_not_renewed(flaky: UnacknowledgedStore, clock, player) -> None:
    lease = player.task("actor:1")
    writer = StoreJournal(flaky, clock)
    (episode,) = writer.start([player.plan(lease, "g")])
    leases.end_all_leases(flaky)
    with pytest.raises(LeaseLost, match="the supervisor of this home ended it"):
        writer.turns([(episode, 0, player.turn())])
    ((task, _),) = tasks.lease_tasks(flaky, "actor:2", 1, 60, clock)
    assert task.id == lease.subject
