"""Writes that were committed without their caller hearing of it: the same call again changes nothing, or is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from sqlite_utils.utils import sqlite3
from tests.results import TERMS, gate_result, learn_result

from perdure.memory import environments, gates, jobs, leases, tasks, versions
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.errors import InputError, LeaseLost, RuntimeFailure
from perdure.memory.records import Lease, Pair
from perdure.memory.replay import manifests
from perdure.memory.replay.journal import StoreJournal
from perdure.memory.store import Store

ADD = "perdure:add"
T = TypeVar("T")


class Unheard(Exception):
    """It was committed, but the answer was lost."""


class DeafStore(Store):
    """Where `deaf`, the next transaction is committed and its caller is told that it failed."""

    deaf = False

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        outermost = not self.db.conn.in_transaction
        with super().write() as conn:
            yield conn
        if outermost and self.deaf:
            self.deaf = False
            raise Unheard


@pytest.fixture
def deaf(store: Store) -> DeafStore:
    return DeafStore(store.home, store.db)


def content(store: Store) -> dict[str, list[Any]]:
    """Every row of every table."""
    tables = [row["name"] for row in store.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {name: [tuple(row) for row in store.rows(f"SELECT * FROM {name}")] for name in tables}


def unheard(store: DeafStore, call: Callable[[], T]) -> dict[str, list[Any]]:
    """Make a call whose commit is not heard of; gives what the store holds then."""
    store.deaf = True
    with pytest.raises(Unheard):
        call()
    return content(store)


def again(store: DeafStore, call: Callable[[], T]) -> T:
    """Make a call, unheard, and once more: the second one changes nothing."""
    before = unheard(store, call)
    answer = call()
    assert content(store) == before
    return answer


@pytest.fixture
def job(deaf: DeafStore, clock) -> Lease:
    jobs.add_job(deaf, "k", [ADD], LearnOrder(learner="grpo"))
    leased = jobs.lease_job(deaf, "learner", 60, clock)
    assert leased is not None
    return leased[1]


def test_episodes_of_an_unheard_start_are_aborted_with_their_lease(deaf: DeafStore, clock, player) -> None:
    old = player.task("first")
    plan = player.plan(old, "g")
    unheard(deaf, lambda: StoreJournal(deaf, clock).start([plan]))
    clock.now += 1000
    ((_, new),) = tasks.lease_tasks(deaf, "second", 1, 60, clock)
    ids = StoreJournal(deaf, clock).start([dataclasses.replace(plan, lease=new)])
    assert [tuple(row) for row in deaf.rows("SELECT id, state FROM episode ORDER BY id")] == [(1, "aborted"), (ids[0], "running")]


def test_an_unheard_journal_call_is_never_written_twice(deaf: DeafStore, clock, player) -> None:
    """Its process ends with the error. If it went on all the same, the store would refuse it."""
    writer = StoreJournal(deaf, clock)
    lease = player.task()
    (episode,) = writer.start([player.plan(lease, "g")])
    before = unheard(deaf, lambda: writer.turns([(episode, 0, player.turn())]))
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        writer.turns([(episode, 0, player.turn(action=(9, 9)))])
    assert content(deaf) == before
    before = unheard(deaf, lambda: writer.finish([player.ending(episode)]))
    with pytest.raises(RuntimeFailure, match="is completed already"):
        writer.finish([player.ending(episode, reward=0.0)])
    assert content(deaf) == before


def test_a_batch_has_one_manifest(deaf: DeafStore, clock, player, job: Lease) -> None:
    ids = player.group(job, "g", [1.0, 0.0], purpose="learn")
    again(deaf, lambda: manifests.write_manifest(deaf, job, 1, ids, True))
    assert len(manifests.manifests(deaf, job.subject)) == 1


@pytest.mark.parametrize(
    "end",
    [
        lambda store, lease: jobs.finish_job(store, lease, learn_result(None), None),
        jobs.release_job,
        lambda store, lease: jobs.fail_job(store, lease, "x"),
    ],
)
def test_the_end_of_a_job_is_written_once(deaf: DeafStore, job: Lease, end: Callable[[Store, Lease], None]) -> None:
    before = unheard(deaf, lambda: end(deaf, job))
    with pytest.raises(LeaseLost):
        end(deaf, job)
    assert content(deaf) == before


def test_a_job_is_queued_once_under_its_key(deaf: DeafStore) -> None:
    first = again(deaf, lambda: jobs.add_job(deaf, "tonight", [ADD], LearnOrder(learner="grpo")))
    assert jobs.add_job(deaf, "tomorrow", [ADD], LearnOrder(learner="grpo")) != first


def test_pairs_verdict_and_promotion_are_one_each(deaf: DeafStore, job: Lease) -> None:
    (deaf.home / "versions" / "v1").mkdir()
    again(deaf, lambda: versions.add_candidate(deaf, job, "v1", "v0", "h", "versions/v1", [ADD], job.subject))
    gate = again(deaf, lambda: gates.start_gate(deaf, job, "v1", "v0", "standard", TERMS))
    pair = Pair(environment=ADD, role="earlier", draw=0, seed=9, reference="v0", reference_score=1.0, candidate_score=1.0, difference=0.0)
    again(deaf, lambda: gates.add_pairs(deaf, job, gate, [pair, dataclasses.replace(pair, draw=1, seed=10)]))
    again(deaf, lambda: gates.close_gate(deaf, job, gate_result(gate=gate)))
    again(deaf, lambda: versions.promote(deaf, "v1", "it holds", gate=gate, lease=job))
    assert [move.to_version for move in versions.moves(deaf)] == ["v0", "v1"]
    assert environments.list_environments(deaf)[0].anchor == "v1"


def test_a_rollback_to_a_named_version_is_made_once(deaf: DeafStore, add_version) -> None:
    for _ in range(2):
        versions.promote(deaf, add_version(versions.serving(deaf).name), "better")
    before = unheard(deaf, lambda: versions.rollback(deaf, "v1", "harm"))
    with pytest.raises(InputError, match="v1 serves already"):
        versions.rollback(deaf, "v1", "harm")
    assert content(deaf) == before
    before = unheard(deaf, lambda: versions.promote(deaf, "v2", "no harm"))
    with pytest.raises(InputError, match="v2 serves already"):
        versions.promote(deaf, "v2", "no harm")
    assert content(deaf) == before


@pytest.mark.parametrize("end", [tasks.finish_task, tasks.release_task, lambda store, lease: tasks.fail_task(store, lease, "x")])
def test_the_end_of_a_task_is_written_once(deaf: DeafStore, player, end: Callable[[Store, Lease], None]) -> None:
    lease = player.task()
    before = unheard(deaf, lambda: end(deaf, lease))
    with pytest.raises(LeaseLost):
        end(deaf, lease)
    assert content(deaf) == before


def test_tasks_that_were_leased_unheard_come_back_when_their_process_is_dead(deaf: DeafStore, clock) -> None:
    tasks.add_tasks(deaf, ADD, [1, 2], 1, "stream")
    unheard(deaf, lambda: tasks.lease_tasks(deaf, "actor:1", 1, 60, clock))
    assert [task.id for task, _ in tasks.lease_tasks(deaf, "actor:1", 9, 60, clock)] == [2]
    leases.lapse(deaf, "actor:1")
    assert [task.id for task, _ in tasks.lease_tasks(deaf, "actor:2", 9, 60, clock)] == [1, 2]


def test_a_lease_that_the_supervisor_ended_is_not_renewed(deaf: DeafStore, clock, player) -> None:
    lease = player.task("actor:1")
    writer = StoreJournal(deaf, clock)
    (episode,) = writer.start([player.plan(lease, "g")])
    leases.lapse(deaf)
    with pytest.raises(LeaseLost, match="the supervisor of this home ended it"):
        writer.turns([(episode, 0, player.turn())])
    ((task, _),) = tasks.lease_tasks(deaf, "actor:2", 1, 60, clock)
    assert task.id == lease.subject
