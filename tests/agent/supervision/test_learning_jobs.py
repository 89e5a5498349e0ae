from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.ended_jobs import almost, end_with, fallen, lease_next, play_one
from tests.results import gate_result

from perdure.agent.config import Config
from perdure.agent.show.daemon_health import troubles
from perdure.agent.supervision.learning_jobs import ScheduledLearning, queue_job_if_due
from perdure.agent.supervision.limits import Tally
from perdure.memory.contracts.orders import GateOrder, LearnOrder
from perdure.memory.environments import register
from perdure.memory.jobs import add_job, fail_job, get_job, list_jobs
from perdure.memory.processes import events, record_event
from perdure.memory.store import Store, create_store
from perdure.memory.versions import add_initial

ADD, SORT = "perdure:add", "perdure:sort-numbers"
CONFIG = Config.model_validate({"stream": {"environments": [ADD, SORT]}, "learn": {"every_episodes": 16}})
MIXED = [0.0, 1.0] * 4


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create_store(tmp_path / "home") as store:
        register(store, ADD)
        register(store, SORT)
        add_initial(store, "tiny", "hash-of-tiny")
        yield store


def told(store: Store, kind: str) -> list[str]:
    return [event.message for event in reversed(events(store)) if event.kind == kind]


def test_learning_waits_for_new_episodes(store: Store) -> None:
    play_one(store, ADD, MIXED)
    early = queue_job_if_due(store, CONFIG, (ADD, SORT), since=0)
    assert early.job is None
    assert not early.fruitless
    assert "8 more episodes of v0" in early.reason
    play_one(store, ADD, MIXED)
    found = queue_job_if_due(store, CONFIG, (ADD, SORT), since=0)
    assert found.job is not None
    job = get_job(store, found.job)
    assert (job.kind, job.learner, job.targets, job.state) == ("learn", "grpo", (ADD,), "queued")
    assert job.order == LearnOrder(learner="grpo", options={"seed": 0}, profile=CONFIG.gate.profile, why=found.reason)
    assert found.reason == "perdure:add succeeds in 50% of its live episodes, and 100% of its groups are mixed"
    assert told(store, "learning") == [found.reason]


def test_episodes_from_before_the_last_job_start_no_other(store: Store) -> None:
    for _ in range(2):
        play_one(store, ADD, MIXED)
    assert queue_job_if_due(store, CONFIG, (ADD, SORT), since=0).job is not None
    end_with(store, *lease_next(store), gate_result("reject", gain="failed"))
    assert "16 more" in queue_job_if_due(store, CONFIG, (ADD, SORT), since=0).reason
    assert queue_job_if_due(store, CONFIG, (ADD, SORT), since=0, now=True).job is not None
    assert told(store, "nothing follows") == ["nothing follows the verdict on v1: all held"]


def test_fruitless_check_says_why_and_counts_anew(store: Store) -> None:
    for _ in range(2):
        play_one(store, ADD, [1.0] * 8)
    found = queue_job_if_due(store, CONFIG, (ADD, SORT), since=0)
    assert found.job is None
    assert found.fruitless
    assert "100%" in found.reason
    later = queue_job_if_due(store, CONFIG, (ADD, SORT), since=time.time())
    assert not later.fruitless
    assert "16 more" in later.reason


def test_learning_that_is_off_says_so(store: Store) -> None:
    config = CONFIG.model_copy(update={"learn": CONFIG.learn.model_copy(update={"every_episodes": 0})})
    for _ in range(2):
        play_one(store, ADD, MIXED)
    found = queue_job_if_due(store, config, (ADD, SORT), since=0)
    assert found.job is None
    assert "every_episodes is 0" in found.reason
    assert queue_job_if_due(store, config, (ADD, SORT), since=0, now=True).job is not None
    end_with(store, *lease_next(store), almost(SORT))
    assert queue_job_if_due(store, config, (ADD, SORT), since=0).job is None, "not even a gate is queued by itself"


def test_a_gate_that_follows_a_verdict_waits_for_no_episodes_and_a_repair_does(store: Store) -> None:
    for _ in range(2):
        play_one(store, ADD, MIXED)
    queue_job_if_due(store, CONFIG, (ADD, SORT), since=0)
    end_with(store, *lease_next(store), almost(SORT))
    assert "16 more" in queue_job_if_due(store, CONFIG, (ADD, SORT), since=0, news=False).reason, "it is looked for once after each job"
    again = queue_job_if_due(store, CONFIG, (ADD, SORT), since=0)
    assert again.reason == "v1 is gated once more: its gain was shown, and perdure:sort-numbers could not be shown to hold"
    assert again.job is not None
    job = get_job(store, again.job)
    assert job.targets == (ADD,)
    assert job.order == GateOrder(candidate="v1", profile=CONFIG.gate.profile, leads_to="promotion", why=again.reason, follows=1)
    assert told(store, "gate again") == [again.reason]
    end_with(store, *lease_next(store), fallen(SORT))
    assert "16 more" in queue_job_if_due(store, CONFIG, (ADD, SORT), since=0).reason
    for _ in range(2):
        play_one(store, ADD, MIXED)
    repair = queue_job_if_due(store, CONFIG, (ADD, SORT), since=0)
    assert repair.job is not None
    order = get_job(store, repair.job).order
    assert isinstance(order, LearnOrder)
    assert (order.aim, order.start, order.follows, get_job(store, repair.job).targets) == ("repair", "v1", 2, (ADD, SORT))


def test_by_the_clock_a_gate_follows_at_once_too(store: Store) -> None:
    config = CONFIG.model_copy(
        update={
            "learn": CONFIG.learn.model_copy(update={"every_episodes": 0}),
            "schedule": CONFIG.schedule.model_copy(update={"every_minutes": 30}),
        }
    )
    for _ in range(2):
        play_one(store, ADD, MIXED)
    assert queue_job_if_due(store, config, (ADD, SORT), since=0).job is None
    assert queue_job_if_due(store, config, (ADD, SORT), since=0, now=True).job == 1
    end_with(store, *lease_next(store), almost(SORT))
    assert queue_job_if_due(store, config, (ADD, SORT), since=0).job == 2


def test_nothing_left_to_learn_is_a_state_with_its_reason_and_looks_are_counted_in_the_store(store: Store) -> None:
    tally = Tally()
    learning = ScheduledLearning(store, CONFIG, (ADD, SORT), tally, tries=5)
    for _ in range(2):
        play_one(store, ADD, [1.0] * 8)
        play_one(store, SORT, [1.0] * 8)
    learning.tick(played_out=False, halted=None)
    full = "succeeds in 100%, which leaves too little to gain"
    why = f"nothing left to learn: {ADD} {full}; {SORT} {full}"
    assert learning.why == why
    learning.tick(played_out=False, halted=None)
    assert learning.why == f"{why}; the next learning job comes after 16 more episodes of v0"
    assert (tally.fruitless, list_jobs(store), told(store, "no learning")) == (1, [], [why])


def test_a_job_that_found_nothing_to_learn_is_a_refusal_and_no_fault(store: Store) -> None:
    tally = Tally()
    learning = ScheduledLearning(store, CONFIG, (ADD, SORT), tally, tries=2)
    for _ in range(2):
        play_one(store, ADD, MIXED)
    for error, failures in (("nothing to learn from in perdure:add: all equal", 0), ("it broke", 1), ("it broke", 2)):
        assert queue_job_if_due(store, CONFIG, (ADD, SORT), since=0, now=True).job is not None
        job, lease = lease_next(store)
        fail_job(store, lease, error)
        learning.count(get_job(store, job.id))
        assert tally.failures == failures
    learning.tick(played_out=False, halted=None)
    assert learning.why.startswith("learning is given up after 2 jobs that failed in a row, the last: it broke")


def test_a_second_gate_counts_as_a_verdict_of_the_run(store: Store) -> None:
    tally = Tally()
    learning = ScheduledLearning(store, CONFIG, (ADD, SORT), tally, tries=5)
    for _ in range(2):
        play_one(store, ADD, MIXED)
    learning.tick(played_out=False, halted=None)
    for result in (almost(SORT), gate_result("promote")):
        job, lease = lease_next(store)
        end_with(store, job, lease, result)
        learning.count(get_job(store, job.id))
        learning.tick(played_out=False, halted=None)
    assert (tally.verdicts, tally.promoted) == (2, "v1")


def test_found_that_learning_was_given_up_is_over_when_a_job_succeeds(store: Store) -> None:
    tally = Tally()
    learning = ScheduledLearning(store, CONFIG, (ADD, SORT), tally, tries=1)
    record_event(store, "start", "supervisor", "process 1")
    add_job(store, "one", [ADD], LearnOrder(learner="grpo"))
    job, lease = lease_next(store)
    fail_job(store, lease, "it broke")
    learning.count(get_job(store, job.id))
    assert troubles(store, "playing", None, 1.0) == [f"learning: {told(store, 'given up')[0]}"]
    add_job(store, "two", [ADD], LearnOrder(learner="grpo"))
    job, lease = lease_next(store)
    end_with(store, job, lease, gate_result("reject", gain="failed"))
    learning.count(get_job(store, job.id))
    assert troubles(store, "playing", None, 1.0) == []


def test_found_many_events_hide_no_trouble(store: Store) -> None:
    record_event(store, "start", "supervisor", "process 1")
    record_event(store, "given up", "learning", "after 5 jobs")
    for n in range(600):
        record_event(store, "missed", "schedule.cron", str(n))
    assert troubles(store, "playing", None, 1.0) == ["learning: after 5 jobs"]
