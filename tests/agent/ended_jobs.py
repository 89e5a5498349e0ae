"""What a learner and an actor leave in the store, without a model: verdicts with their evidence, and live episodes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tests.results import TERMS, gate_result, learn_result

from perdure.agent.processes.pulse import Pulse
from perdure.memory.contracts.orders import GateOrder, Job
from perdure.memory.contracts.results import GateResult, Leg
from perdure.memory.gates import add_pairs, close_gate, start_gate
from perdure.memory.jobs import finish_job, lease_job
from perdure.memory.leases import BootClock
from perdure.memory.records import Ending, EpisodePlan, Lease, Pair, Turn, VersionRef
from perdure.memory.store import Store
from perdure.memory.tasks import add_tasks, finish_task, lease_tasks
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.versions import add_candidate, get_version, promote, reject, reserve_name, serving

CLOCK = BootClock()


def lease_next(store: Store) -> tuple[Job, Lease]:
    leased = lease_job(store, f"learner:{os.getpid()}", 60.0, CLOCK)
    assert leased is not None
    return leased


def end_with(
    store: Store, job: Job, lease: Lease, result: GateResult, differences: Mapping[str, Sequence[float]] | None = None
) -> GateResult:
    """End a job with this verdict, and do what it says. A learning job makes its candidate, which has files.

    `differences` are stored as pairs with v0.
    """
    name = job.order.candidate if isinstance(job.order, GateOrder) else reserve_name(store)
    if not isinstance(job.order, GateOrder):
        (store.home / "versions" / name / "adapter_model.safetensors").write_bytes(b"weights")
        parent = serving(store).name
        add_candidate(store, lease, name, parent, f"hash-of-{name}", f"versions/{name}", job.targets, job.id)
    gate = start_gate(store, lease, name, serving(store).name, "economy", TERMS)
    add_pairs(store, lease, gate, [_pair(each, n, d) for each, values in (differences or {}).items() for n, d in enumerate(values)])
    result = replace(result, gate=gate, candidate=name, serving=serving(store).name)
    close_gate(store, lease, result)
    if result.verdict == "promote":
        promote(store, name, result.reason, gate=gate, lease=lease)
    elif result.verdict == "reject" and get_version(store, name).state == "candidate":
        reject(store, name, lease)
    finish_job(store, lease, result if isinstance(job.order, GateOrder) else learn_result(result, version=name), name)
    return result


def almost(environment: str) -> GateResult:
    """The gain was shown, and this environment could not be shown to hold."""
    leg = Leg(state="not shown", role="earlier", reference="v0", n=192, mean_difference=-0.02)
    return gate_result("inconclusive", environments={environment: leg}, reason=f"not shown to hold in 192 rounds: {environment}")


def fallen(environment: str) -> GateResult:
    """The gain was shown, and this environment fell."""
    lost = Leg(state="failed", role="earlier", reference="v0", n=10, mean_difference=-0.4)
    won = Leg(state="passed", role="trained", reference="v0", n=20, mean_difference=0.6)
    return gate_result("reject", environments={environment: lost}, trained={"x": won}, reason=f"{environment} fell against v0")


def play_tasks(store: Store, pulse: Pulse, rewards: Mapping[str, Sequence[float]]) -> None:
    """An actor that plays all that is queued: the members of a task of an environment come to these rewards."""
    while True:
        for task, lease in lease_tasks(store, f"actor:{os.getpid()}", 1, 60.0, CLOCK):
            play_members(store, lease, task.environment, task.seed, rewards[task.environment])
        pulse.say("playing", str(time.time()))
        time.sleep(0.05)


def play_one(store: Store, environment: str, rewards: Sequence[float]) -> None:
    """One live task that a person asked for."""
    add_tasks(store, environment, [7], len(rewards), "person")
    ((task, lease),) = lease_tasks(store, "actor:1", 1, 60.0, CLOCK)
    play_members(store, lease, task.environment, task.seed, rewards)


def play_members(store: Store, lease: Lease, environment: str, seed: int, rewards: Sequence[float]) -> None:
    sampler = VersionRef(serving(store).name)
    journal = StoreJournal(store, CLOCK)
    plans = [
        EpisodePlan(
            environment=environment,
            seed=seed,
            group=f"task-{lease.subject}",
            member=member,
            purpose="live",
            sampler=sampler,
            temperature=1.0,
            lease=lease,
        )
        for member in range(len(rewards))
    ]
    ids = journal.start(plans)
    turn = Turn(prompt_ids=(1,), action_ids=(2,), logprobs=(-1.0,), observation="?", action="!", reward=0.0, sampler=sampler, finish="stop")
    journal.turns([(id_, 0, replace(turn, reward=reward)) for id_, reward in zip(ids, rewards, strict=True)])
    journal.finish(
        [
            Ending(episode=id_, state="completed", stop_reason="terminated", total_reward=reward, success=reward == 1, score=reward)
            for id_, reward in zip(ids, rewards, strict=True)
        ]
    )
    finish_task(store, lease)


def _pair(environment: str, draw: int, difference: float) -> Pair:
    return Pair(
        environment=environment,
        role="earlier",
        draw=draw,
        seed=2**31 + draw,
        reference="v0",
        reference_score=0.5,
        candidate_score=0.5 + difference,
        difference=difference,
    )
