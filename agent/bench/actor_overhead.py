"""How much of an actor's time is its own work: all between two generations, at 32 episodes at once; and how full 64 at once stay.

The actor of `agent/processes/actor.py` plays tasks to their end in a home of its own; the time of `Policy.generate` is counted apart. It
plays once with the model, which gives the share, and once with a policy that answers at once, which shows what a round costs if nothing
else happens. Left out: the supervisor, which is another process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from perdure.agent.config import Config
from perdure.agent.processes.actor import Actor
from perdure.agent.stream.registering import register_environments
from perdure.envs.environment import Environment
from perdure.envs.policy import Chat, Policy, Request, Sample
from perdure.envs.seeds import train_seed
from perdure.learners.engines.serving_model import ServingModel
from perdure.learners.engines.transformers_engine import TransformersEngine
from perdure.learners.hardware import faster_dtype
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.json_value import Document
from perdure.memory.leases import BootClock
from perdure.memory.records import VersionRef
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.tasks import add_tasks, anything_to_play, queued
from perdure.memory.trajectories.episodes import count
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.versions import add_initial

WIDTH = 32
AT_ONCE = 64
MEMBERS = 8
BATCHES = 7
ANSWER = 8
"""Tokens of an immediate answer, its end included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorTime:
    """Where the time of an actor went."""

    policy: str
    episodes: int
    rounds: int
    """Of generation."""
    wall_s: float
    generating_s: float
    empty_share: float
    """Of the places of a batch, in rounds that were generated while tasks were waiting."""

    @property
    def own_ms_per_round(self) -> float:
        return 1000 * (self.wall_s - self.generating_s) / self.rounds

    @property
    def own_share(self) -> float:
        return 1 - self.generating_s / self.wall_s

    def as_json(self) -> Document:
        return {
            "policy": self.policy,
            "episodes": self.episodes,
            "rounds": self.rounds,
            "wall_s": self.wall_s,
            "own_ms_per_round": self.own_ms_per_round,
            "own_share": self.own_share,
            "empty_share": self.empty_share,
        }


@dataclass(slots=True)
class Timed:
    """A model whose every version is `policy`; counts its seconds, and how full its batches were while `waiting()`."""

    chat: Chat
    context_limit: int
    policy: Policy
    waiting: Callable[[], bool]
    rounds: int = 0
    seconds: float = 0.0
    asked: list[int] = field(default_factory=list)
    """Requests of each batch that could have been full."""

    def load(self, version: str) -> Policy:
        return self

    def opponent(self, version: str) -> Policy:
        return self

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        started = time.perf_counter()
        samples = self.policy.generate(requests)
        self.seconds += time.perf_counter() - started
        self.rounds += 1
        if self.waiting():
            self.asked.append(len(requests))
        return samples


@dataclass(frozen=True, slots=True)
class AtOnce:
    """Gives the same answer to everything."""

    sample: Sample

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        return [self.sample] * len(requests)


def bench_play(
    folder: Path, files: ModelFiles, environments: Sequence[Environment], *, device: str, batches: int = BATCHES, say: Callable[[str], None]
) -> list[ActorTime]:
    """Play `batches` batches of `WIDTH` episodes, of these environments in turn, with each policy, in a home in `folder`."""
    engine = TransformersEngine(files, device=device, dtype=faster_dtype(device), seed=0)
    engine.choose_threads()
    ids = (*range(100, 99 + ANSWER), min(engine.stop_ids))
    at_once = AtOnce(Sample(action_ids=ids, logprobs=(-0.5,) * ANSWER, finish="stop", sampler=VersionRef("v0")))
    with _home(folder, files, environments) as store:
        served = ServingModel(store, engine).load("v0")
        shares = []
        for name, policy in ((files.name, served), ("one that answers at once", at_once)):
            say(f"playing with {name}")
            play_batches(store, name, engine, policy, environments, 1, WIDTH)  # a warm-up
            shares.append(play_batches(store, name, engine, policy, environments, batches, WIDTH))
    return shares


def bench_batch(
    folder: Path, files: ModelFiles, environments: Sequence[Environment], *, device: str, say: Callable[[str], None]
) -> ActorTime:
    """Play `BATCHES` batches of `AT_ONCE` episodes with the model."""
    engine = TransformersEngine(files, device=device, dtype=faster_dtype(device), seed=0)
    engine.choose_threads()
    with _home(folder, files, environments) as store:
        say(f"playing {BATCHES * AT_ONCE} episodes, {AT_ONCE} at once")
        return play_batches(store, files.name, engine, ServingModel(store, engine).load("v0"), environments, BATCHES, AT_ONCE)


@contextmanager
def _home(folder: Path, files: ModelFiles, environments: Sequence[Environment]) -> Iterator[Store]:
    """A store in which these environments can be played."""
    create_store(folder / "play").close()
    with open_store(folder / "play") as store:
        register_environments(store, environments)
        add_initial(store, files.name, files.hash)
        yield store


def play_batches(
    store: Store, name: str, engine: TransformersEngine, policy: Policy, environments: Sequence[Environment], batches: int, width: int
) -> ActorTime:
    """Let an actor play batches to their end."""
    before = count(store)
    for n in range(batches * width // MEMBERS):
        environment = environments[n % len(environments)].name
        add_tasks(store, environment, [train_seed(0, environment, n)], MEMBERS, "stream")
    config = Config.model_validate({"play": {"width": width, "members": MEMBERS}})
    timed = Timed(engine.chat, engine.context_limit, policy, lambda: queued(store) > 0)
    started = time.perf_counter()
    Actor(store, config, lambda: not anything_to_play(store), StoreJournal(store, BootClock())).run(timed)
    return ActorTime(
        policy=name,
        episodes=count(store) - before,
        rounds=timed.rounds,
        wall_s=time.perf_counter() - started,
        generating_s=timed.seconds,
        empty_share=1 - sum(timed.asked) / max(len(timed.asked) * width, 1),
    )
