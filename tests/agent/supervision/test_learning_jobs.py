from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.results import gate_result, learn_result

from perdure.agent.config import Config, ScheduleSection
from perdure.agent.supervision.abandoned_work import fail_orphan, requeue_orphan, requeue_tasks
from perdure.agent.supervision.ticker import Tick, look, start_ticker
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.environments import register
from perdure.memory.jobs import add_job, finish_job, get_job, lease_job, unfinished_jobs
from perdure.memory.leases import ATTEMPT_CAP, BootClock
from perdure.memory.records import Ending, EpisodePlan, Turn, VersionRef
from perdure.memory.replay.journal import StoreJournal
from perdure.memory.store import Store, create_store
from perdure.memory.tasks import add_tasks, counts, finish_task, lease_tasks
from perdure.memory.versions import add_initial

ADD, SORT = "perdure:add", "perdure:sort-numbers"
CLOCK = BootClock()
CONFIG = Config.model_validate({"stream": {"environments": [ADD, SORT]}, "learn": {"every_episodes": 16}})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create_store(tmp_path / "home") as store:
        register(store, ADD)
        register(store, SORT)
        add_initial(store, "tiny", "hash-of-tiny")
        yield store


def play(store: Store, environment: str, rewards: list[float]) -> None:
    """One live task whose members come to these rewards."""
    add_tasks(store, environment, [7], len(rewards), "person")
    task, lease = lease_tasks(store, "actor:1", 1, 60, CLOCK)[0]
    journal = StoreJournal(store, CLOCK)
    plans = [
        EpisodePlan(
            environment=environment,
            seed=7,
            group=f"task-{task.id}",
            member=member,
            purpose="live",
            sampler=VersionRef("v0"),
            temperature=1.0,
            lease=lease,
        )
        for member in range(len(rewards))
    ]
    ids = journal.start(plans)
    journal.turns([(id_, 0, turn(reward)) for id_, reward in zip(ids, rewards, strict=True)])
    journal.finish(
        [
            Ending(episode=id_, state="completed", stop_reason="terminated", total_reward=reward, success=reward == 1, score=reward)
            for id_, reward in zip(ids, rewards, strict=True)
        ]
    )
    finish_task(store, lease)


def turn(reward: float) -> Turn:
    return Turn(
        prompt_ids=(1,),
        action_ids=(2,),
        logprobs=(-1.0,),
        observation="?",
        action="!",
        reward=reward,
        sampler=VersionRef("v0"),
        finish="stop",
    )


def test_learning_waits_for_new_episodes(store: Store) -> None:
    play(store, ADD, [0.0, 1.0] * 4)
    early = look(store, CONFIG, (ADD, SORT), since=0)
    assert early.job is None
    assert not early.fruitless
    assert "8 more episodes of v0" in early.reason
    play(store, ADD, [0.0, 1.0] * 4)
    found = look(store, CONFIG, (ADD, SORT), since=0)
    assert found.job is not None
    job = get_job(store, found.job)
    assert (job.kind, job.learner, job.targets, job.state) == ("learn", "grpo", (ADD,), "queued")
    assert job.order == LearnOrder(learner="grpo", options={"seed": 0}, profile="economy")


def test_episodes_from_before_the_last_job_start_no_other(store: Store) -> None:
    for _ in range(2):
        play(store, ADD, [0.0, 1.0] * 4)
    assert look(store, CONFIG, (ADD, SORT), since=0).job is not None
    leased = lease_job(store, "learner-1:1", 60, CLOCK)
    assert leased is not None
    finish_job(store, leased[1], learn_result(gate_result("reject")), None)
    assert "16 more" in look(store, CONFIG, (ADD, SORT), since=0).reason
    assert look(store, CONFIG, (ADD, SORT), since=0, now=True).job is not None


def test_fruitless_look_says_why_and_counts_anew(store: Store) -> None:
    for _ in range(2):
        play(store, ADD, [1.0] * 8)
    found = look(store, CONFIG, (ADD, SORT), since=0)
    assert found.job is None
    assert found.fruitless
    assert "100%" in found.reason
    later = look(store, CONFIG, (ADD, SORT), since=time.time())
    assert not later.fruitless
    assert "16 more" in later.reason


def test_learning_that_is_off_says_so(store: Store) -> None:
    config = CONFIG.model_copy(update={"learn": CONFIG.learn.model_copy(update={"every_episodes": 0})})
    for _ in range(2):
        play(store, ADD, [0.0, 1.0] * 4)
    found = look(store, config, (ADD, SORT), since=0)
    assert found.job is None
    assert "every_episodes is 0" in found.reason
    assert look(store, config, (ADD, SORT), since=0, now=True).job is not None


def test_ticker_calls_and_stops() -> None:
    heard: list[Tick] = []
    ticker = start_ticker(ScheduleSection(cron="0 3 * * *", every_minutes=5), heard.append)
    assert {str(job.trigger).split("[")[0] for job in ticker.get_jobs()} == {"interval", "cron"}
    deadline = time.monotonic() + 5
    while "stream" not in heard and time.monotonic() < deadline:
        time.sleep(0.05)
    ticker.shutdown()
    assert "stream" in heard
    said = len(heard)
    time.sleep(0.7)
    assert len(heard) == said


def test_job_whose_process_died_fails_with_the_reason(store: Store) -> None:
    queued = add_job(store, "a", [ADD], LearnOrder(learner="grpo"))
    running = add_job(store, "b", [ADD], LearnOrder(learner="grpo"))
    assert lease_job(store, "learner-2:9", 60, CLOCK, running) is not None
    for job in (queued, running):
        fail_orphan(store, job, "its process was ended by SIGKILL", CLOCK)
        assert get_job(store, job).state == "failed"
        assert get_job(store, job).error == "its process was ended by SIGKILL"
    assert unfinished_jobs(store) == []


def test_job_is_tried_again_three_times_if_the_death_says_nothing_about_it(store: Store) -> None:
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
