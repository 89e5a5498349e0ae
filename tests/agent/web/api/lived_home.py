"""A home in which something of everything has happened, each thing once or twice, so that every number can be worked by hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.agent.ended_jobs import CLOCK, end_with, lease_next, play_one
from tests.results import gate_result, update

from perdure.memory import environments, versions
from perdure.memory.contracts.orders import LearnOrder, ProbeOrder
from perdure.memory.contracts.results import Leg, ProbeResult, ProbeScore
from perdure.memory.evidence.item_scores import ItemScore, keep_panel_scores
from perdure.memory.jobs import add_job, add_step, finish_job
from perdure.memory.processes import record_event
from perdure.memory.records import Ending, EpisodePlan, Lease, Turn, VersionRef
from perdure.memory.store import Store, create_store
from perdure.memory.tasks import add_tasks, lease_tasks
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.trajectories.rewards import add_rewards

ADD, SUB = "perdure:add", "perdure:sub?numbers=2"
SCRIPT = "<script>alert(1)</script>\x1b[31m\u202e\0 and more" + "x" * 5000


def live_a_life(home: Path) -> None:
    """Versions v0 (retired) and v1 (serving); tasks 1 to 4, of which 4 is in play; jobs 1 (learn), 2 and 3 (probes), 4 (learn, waits).

    Episodes 1 and 2 (v0, ADD, returns 1 and 0), 3 and 4 (v0, SUB, 0 and 0), 5 and 6 (v1, ADD, 1 and 1), 7 and 8 (v0 on seeds 100 and
    101), 9 and 10 (v1 on the same), 11 (running).
    """
    with create_store(home) as store:
        versions.add_initial(store, "tiny", "hash-of-tiny")
        environments.register(store, ADD)
        environments.register(store, SUB)
        play_one(store, ADD, [1.0, 0.0])
        play_one(store, SUB, [0.0, 0.0])
        add_rewards(store, "anna", {1: 0.5})
        _learn(store)
        play_one(store, ADD, [1.0, 1.0])
        _probe(store, "v0", {100: ("7", 0.0), 101: ("5", 1.0)})
        _probe(store, "v1", {100: ("8", 1.0), 101: ("5", 1.0)})
        add_job(store, "waits", [SUB], LearnOrder(learner="sft", options={"updates": 3}))
        record_event(store, "start", "supervisor", "process 7")
        record_event(store, "verdict", "job 1", "v1: promote")
        record_event(store, "death", "actor", "it was killed; it starts again")
        _begin_to_play(store)


def _learn(store: Store) -> None:
    add_job(store, "first", [ADD], LearnOrder(learner="grpo", options={"updates": 2}))
    job, lease = lease_next(store)
    for n in (1, 2):
        add_step(store, lease, update(n, success=0.25 * n, grad_norm=1.5))
    gained = Leg(state="passed", role="trained", reference="v0", n=2, mean_difference=0.25)
    end_with(store, job, lease, gate_result("promote", trained={ADD: gained}), {ADD: [0.5, 0.0], SUB: [0.0, -0.25]})


def _probe(store: Store, version: str, answers: dict[int, tuple[str, float]]) -> None:
    """A probe of ADD: to each seed one turn that both versions answer alike, and one with this answer and score."""
    add_job(store, f"probe {version}", [ADD], ProbeOrder(version=version, episodes=len(answers)))
    _, lease = lease_next(store)
    for seed, (said, score) in answers.items():
        _play(store, lease, version, seed, said, score)
    scores = {("sums", "a", "choice"): 0.75 if version == "v0" else 0.25, ("sums", "b", "choice"): 0.5}
    keep_panel_scores(store, lease, version, [(key, ItemScore(score, "now", "fp32")) for key, score in scores.items()])
    mean = sum(score for _, score in answers.values()) / len(answers)
    result = ProbeResult(version=version, environments={ADD: ProbeScore(score=mean, low=0.0, high=1.0, episodes=len(answers), failed=0)})
    finish_job(store, lease, result, None)


def _play(store: Store, lease: Lease, version: str, seed: int, said: str, score: float) -> None:
    journal, sampler = StoreJournal(store, CLOCK), VersionRef(version)
    plan = EpisodePlan(
        environment=ADD,
        seed=seed,
        group=f"job-{lease.subject}-{seed}",
        member=0,
        purpose="probe",
        sampler=sampler,
        temperature=0.0,
        lease=lease,
    )
    (episode,) = journal.start([plan])
    journal.turns([(episode, n, turn) for n, turn in enumerate(_turns(sampler, ["first", said], score))])
    success = score == 1.0
    journal.finish([Ending(episode=episode, state="completed", stop_reason="terminated", total_reward=score, success=success, score=score)])


def _turns(sampler: VersionRef, said: Sequence[str], reward: float) -> list[Turn]:
    one = Turn(
        prompt_ids=(1, 2),
        action_ids=(3, 4),
        logprobs=(-0.25, -0.5),
        observation="1 + 1?",
        action=said[0],
        reward=0.0,
        sampler=sampler,
        finish="stop",
    )
    other = replace(one, prompt_ids=(1, 2, 3, 4, 9), shared=4, action_ids=(3, ord(said[1])), action=said[1], reward=reward)
    return [one, other]


def _begin_to_play(store: Store) -> None:
    """An episode that goes on, with a text that wants to be more than a text."""
    add_tasks(store, SUB, [9], 1, "person")
    ((_, lease),) = lease_tasks(store, f"actor:{os.getpid()}", 1, 600.0, CLOCK)
    sampler = VersionRef("v1")
    journal = StoreJournal(store, CLOCK)
    plan = EpisodePlan(
        environment=SUB,
        seed=9,
        group=f"task-{lease.subject}",
        member=0,
        purpose="live",
        sampler=sampler,
        temperature=1.0,
        lease=lease,
    )
    (episode,) = journal.start([plan])
    (turn, _) = _turns(sampler, ["7", "8"], 0.0)
    journal.turns([(episode, 0, replace(turn, observation=SCRIPT))])
