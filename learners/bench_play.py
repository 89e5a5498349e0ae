"""How much of an actor's time is its own work: all between two generations, at 32 episodes at once.

Tasks are leased, played by `envs/rollout.py:play` with a real journal, and finished, as the actor does it; what `Policy.generate` takes is
counted apart. Once with the model, which gives the share, and once with a policy that answers at once, which shows what a round costs
where nothing else happens. Left out: the supervisor, which is another process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.envs.environment import Environment
from perdure.envs.policy import Policy, Request, Sample
from perdure.envs.rollout import Attempt, play
from perdure.envs.seeds import train_seed
from perdure.learners.engine import TransformersEngine, faster_dtype
from perdure.learners.models import ModelFiles
from perdure.memory import environments as registrations
from perdure.memory.journal import StoreJournal
from perdure.memory.leases import TTL_S, BootClock
from perdure.memory.records import Episode, VersionRef
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.tasks import add_tasks, finish_task, lease_tasks
from perdure.memory.versions import add_initial

WIDTH = 32
MEMBERS = 8
BATCHES = 7
ANSWER = 8
"""Tokens of an answer that comes at once, its end included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Where the time went."""

    policy: str
    episodes: int
    rounds: int
    """Of generation."""
    wall_s: float
    generating_s: float

    @property
    def own_ms_per_round(self) -> float:
        return 1000 * (self.wall_s - self.generating_s) / self.rounds

    @property
    def own_share(self) -> float:
        return 1 - self.generating_s / self.wall_s

    def as_json(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "episodes": self.episodes,
            "rounds": self.rounds,
            "wall_s": self.wall_s,
            "own_ms_per_round": self.own_ms_per_round,
            "own_share": self.own_share,
        }


@dataclass(slots=True)
class Timed:
    """A policy, and how long it took."""

    policy: Policy
    rounds: int = 0
    seconds: float = 0.0

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        started = time.perf_counter()
        samples = self.policy.generate(requests)
        self.seconds += time.perf_counter() - started
        self.rounds += 1
        return samples


@dataclass(frozen=True, slots=True)
class AtOnce:
    """Gives the same answer to everything."""

    sample: Sample

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        return [self.sample] * len(requests)


def bench_play(
    folder: Path, files: ModelFiles, environments: Sequence[Environment], *, device: str, batches: int = BATCHES, say: Callable[[str], None]
) -> list[Share]:
    """Play so many batches of `WIDTH` episodes, of these environments in turn, with either policy, in a home in `folder`."""
    engine = TransformersEngine(files, device=device, dtype=faster_dtype(device), seed=0)
    sampler = VersionRef("v0")
    engine.load(sampler, {})
    ids = (*range(100, 99 + ANSWER), min(engine.stop_ids))
    at_once = AtOnce(Sample(action_ids=ids, logprobs=(-0.5,) * ANSWER, finish="stop", sampler=sampler))
    create_store(folder / "play").close()
    with open_store(folder / "play") as store:
        for one in environments:
            registrations.register(store, one.name, one.threshold, one.reward_low, one.reward_high)
        add_initial(store, files.name, files.hash)
        shares = []
        for name, policy in ((files.name, engine.policy(sampler)), ("one that answers at once", at_once)):
            say(f"playing with {name}")
            _play(store, engine, policy, environments, 1)  # a warm-up
            timed = Timed(policy)
            started = time.perf_counter()
            episodes = _play(store, engine, timed, environments, batches)
            wall_s = time.perf_counter() - started
            shares.append(Share(policy=name, episodes=episodes, rounds=timed.rounds, wall_s=wall_s, generating_s=timed.seconds))
    return shares


def _play(store: Store, engine: TransformersEngine, policy: Policy, environments: Sequence[Environment], batches: int) -> int:
    """Play batches as the actor does; gives the number of episodes."""
    clock, tasks = BootClock(), WIDTH // MEMBERS
    journal = StoreJournal(store, clock)
    known = {one.name: one for one in environments}
    for n in range(batches * tasks):
        name = environments[n % len(environments)].name
        add_tasks(store, name, [train_seed(0, name, n)], MEMBERS, "stream")
    episodes = 0
    while leased := lease_tasks(store, "bench", tasks, TTL_S, clock):
        left = {task.id: MEMBERS for task, _ in leased}
        leases = {task.id: lease for task, lease in leased}

        def settle(episode: Episode, left: dict[int, int] = left, leases: dict[int, Any] = leases) -> None:
            assert episode.task is not None, "live episodes belong to a task"
            left[episode.task] -= 1
            if not left[episode.task]:
                finish_task(store, leases[episode.task])

        attempts = [
            Attempt(environment=known[task.environment], seed=task.seed, group=f"task-{task.id}", member=k, purpose="live", lease=lease)
            for task, lease in leased
            for k in range(MEMBERS)
        ]
        episodes += len(
            play(
                attempts,
                policy,
                engine.chat,
                VersionRef("v0"),
                journal,
                temperature=1.0,
                width=WIDTH,
                context_limit=engine.context_limit,
                on_finish=settle,
            )
        )
    return episodes
