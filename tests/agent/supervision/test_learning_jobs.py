from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.results import gate_result, learn_result

from perdure.agent.config import Config
from perdure.agent.supervision.learning_jobs import queue_job_if_due
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.environments import register
from perdure.memory.jobs import finish_job, get_job, lease_job
from perdure.memory.leases import BootClock
from perdure.memory.records import Ending, EpisodePlan, Turn, VersionRef
from perdure.memory.store import Store, create_store
from perdure.memory.tasks import add_tasks, finish_task, lease_tasks
from perdure.memory.trajectories.journal import StoreJournal
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
    early = queue_job_if_due(store, CONFIG, (ADD, SORT), since=0)
    assert early.job is None
    assert not early.fruitless
    assert "8 more episodes of v0" in early.reason
    play(store, ADD, [0.0, 1.0] * 4)
    found = queue_job_if_due(store, CONFIG, (ADD, SORT), since=0)
    assert found.job is not None
    job = get_job(store, found.job)
    assert (job.kind, job.learner, job.targets, job.state) == ("learn", "grpo", (ADD,), "queued")
    assert job.order == LearnOrder(learner="grpo", options={"seed": 0}, profile="economy")


def test_episodes_from_before_the_last_job_start_no_other(store: Store) -> None:
    for _ in range(2):
        play(store, ADD, [0.0, 1.0] * 4)
    assert queue_job_if_due(store, CONFIG, (ADD, SORT), since=0).job is not None
    leased = lease_job(store, "learner-1:1", 60, CLOCK)
    assert leased is not None
    finish_job(store, leased[1], learn_result(gate_result("reject")), None)
    assert "16 more" in queue_job_if_due(store, CONFIG, (ADD, SORT), since=0).reason
    assert queue_job_if_due(store, CONFIG, (ADD, SORT), since=0, now=True).job is not None


def test_fruitless_check_says_why_and_counts_anew(store: Store) -> None:
    for _ in range(2):
        play(store, ADD, [1.0] * 8)
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
        play(store, ADD, [0.0, 1.0] * 4)
    found = queue_job_if_due(store, config, (ADD, SORT), since=0)
    assert found.job is None
    assert "every_episodes is 0" in found.reason
    assert queue_job_if_due(store, config, (ADD, SORT), since=0, now=True).job is not None
