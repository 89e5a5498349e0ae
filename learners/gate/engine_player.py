"""Held-out episodes for the gate and for `perdure probe`: greedy, on the engine that serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from perdure.envs.environment import Environment
from perdure.envs.playing import Attempt
from perdure.envs.policy import Policy
from perdure.envs.rollout import Journal, Opponents, nothing, play
from perdure.learners.engines.engine import Engine
from perdure.learners.engines.version_loading import ensure_loaded, version_opponents
from perdure.learners.gate.pairs import Draw
from perdure.learners.workbench import Interrupted
from perdure.memory.records import Lease, Purpose, Sampler, VersionRef
from perdure.memory.store import Store
from perdure.memory.versions import serving

LOADED_AT_ONCE = 3
"""Most versions that a player keeps loaded: merged weights are as large as the model, and a gate has a reference for each anchor."""


@dataclass(slots=True, kw_only=True)
class EnginePlayer:
    """The `Player` of the gate on an engine. Episodes are journaled under the job's lease."""

    store: Store
    engine: Engine
    journal: Journal
    lease: Lease
    load: Callable[[str], Environment]
    purpose: Purpose
    width: int
    stop: Callable[[], bool]
    each_round: Callable[[], None] = nothing
    _batches: int = 0
    _environments: dict[str, Environment] = field(default_factory=dict)
    _loaded: list[VersionRef] = field(default_factory=list)
    """Loaded by this player, the last used at the end."""
    _opponents: Opponents = field(init=False)
    """Versions in other seats, which stay loaded. `serving` is the one that served when this player was made: the same for both sides."""

    def __post_init__(self) -> None:
        self._opponents = version_opponents(self.store, self.engine, serving(self.store).name)

    def scores(self, version: str, draws: Sequence[Draw]) -> list[float | None]:
        """One score in [0, 1] for each draw; None if the episode could not be scored. Raises `Interrupted`."""
        for name in {name for name, _ in draws} - self._environments.keys():
            self._environments[name] = self.load(name)
        sampler = self._load(version)
        self._batches += 1
        attempts = [self._attempt(self._environments[name], version, seed, member) for member, (name, seed) in enumerate(draws)]
        episodes = play(
            attempts,
            self.engine.policy(sampler),
            self.engine.chat,
            sampler,
            self.journal,
            temperature=0.0,
            width=self.width,
            context_limit=self.engine.context_limit,
            stop=self.stop,
            each_round=self.each_round,
            opponents=self._opponent,
        )
        if self.stop():
            raise Interrupted(f"job {self.lease.subject} was stopped while it played held-out tasks")
        return [episode.score if episode.state == "completed" else None for episode in episodes]

    def _load(self, version: str) -> VersionRef:
        """Load a version; if there are too many, unload this player's least recently used one."""
        ref = VersionRef(version)
        if ref in self._loaded:
            self._loaded.remove(ref)
        elif ref in self.engine:
            return ref  # loaded elsewhere
        elif len(self._loaded) == LOADED_AT_ONCE:
            self.engine.unload(self._loaded.pop(0))
        self._loaded.append(ensure_loaded(self.store, self.engine, version))
        return ref

    def _opponent(self, name: str) -> tuple[Sampler, Policy]:
        ref, policy = self._opponents(name)
        self._loaded = [loaded for loaded in self._loaded if loaded != ref]  # opponents stay loaded
        return ref, policy

    def _attempt(self, environment: Environment, version: str, seed: int, member: int) -> Attempt:
        group = f"job-{self.lease.subject}.{self.lease.attempt}-{self.purpose}-{self._batches}-{version}"
        return Attempt(environment=environment, seed=seed, group=group, member=member, purpose=self.purpose, lease=self.lease)
