from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.results import gate_result, learn_result

from perdure.agent.supervision.abandoned_work import fail_orphan, requeue_orphan, requeue_tasks
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.environments import register
from perdure.memory.jobs import add_job, finish_job, get_job, lease_job, unfinished_jobs
from perdure.memory.leases import ATTEMPT_CAP, BootClock
from perdure.memory.store import Store, create_store
from perdure.memory.tasks import add_tasks, counts, lease_tasks

ADD = "perdure:add"
CLOCK = BootClock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create_store(tmp_path / "home") as store:
        register(store, ADD)
        yield store


def test_job_whose_process_died_fails_with_the_reason(store: Store) -> None:
    queued = add_job(store, "a", [ADD], LearnOrder(learner="grpo"))
    running = add_job(store, "b", [ADD], LearnOrder(learner="grpo"))
    assert lease_job(store, "learner-2:9", 60, CLOCK, running) is not None
    for job in (queued, running):
        fail_orphan(store, job, "its process was ended by SIGKILL", CLOCK)
        assert get_job(store, job).state == "failed"
        assert get_job(store, job).error == "its process was ended by SIGKILL"
    assert unfinished_jobs(store) == []


def test_job_is_tried_again_three_times_if_the_death_was_not_its_fault(store: Store) -> None:
    job = add_job(store, "a", [ADD], LearnOrder(learner="grpo"))
    for _ in range(ATTEMPT_CAP):
        assert get_job(store, job).state == "queued"
        assert lease_job(store, "learner-1:9", 60, CLOCK, job) is not None
        fail_orphan(store, job, "killed", CLOCK, again=True)
        assert get_job(store, job).error == "killed"
    assert get_job(store, job).state == "failed"


def test_job_that_has_ended_is_not_failed_afterwards(store: Store) -> None:
    job = add_job(store, "a", [ADD], LearnOrder(learner="grpo"))
    leased = lease_job(store, "learner-1:9", 60, CLOCK, job)
    assert leased is not None
    finish_job(store, leased[1], learn_result(gate_result("promote")), None)
    fail_orphan(store, job, "too late", CLOCK)
    requeue_orphan(store, job)
    assert get_job(store, job).state == "done"


def test_job_that_was_stopped_goes_back_to_the_queue(store: Store) -> None:
    job = add_job(store, "a", [ADD], LearnOrder(learner="grpo"))
    assert lease_job(store, "learner-1:9", 60, CLOCK, job) is not None
    requeue_orphan(store, job)
    assert [found.id for found in unfinished_jobs(store)] == [job]
    assert get_job(store, job).state == "queued"


def test_tasks_of_a_stopped_process_go_back_and_spend_no_attempt(store: Store) -> None:
    add_tasks(store, ADD, [1, 2, 3], 1, "stream")
    for _ in range(5):
        assert len(lease_tasks(store, "actor:1", 2, 60, CLOCK)) == 2
        requeue_tasks(store, "actor:2")
        assert counts(store)["running"] == 2
        requeue_tasks(store, "actor:1")
        assert counts(store) == {"queued": 3, "running": 0, "done": 0, "failed": 0}
