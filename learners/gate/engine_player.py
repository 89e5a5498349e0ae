"""Held-out episodes for the gate and for `perdure probe`: greedy, on the engine that serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from perdure.envs.environment import Environment
from perdure.envs.playing import Attempt
from perdure.envs.rollout import Journal, Opponents, nothing, play
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.gate.pairs import Draw
from perdure.learners.learning_job import Interrupted
from perdure.memory.records import Lease, Purpose
from perdure.memory.versions import serving


@dataclass(slots=True, kw_only=True)
class EnginePlayer:
    """The `Player` of the gate on an engine. Episodes are journaled under the job's lease."""

    versions: LoadedVersions
    journal: Journal
    lease: Lease
    load: Callable[[str], Environment]
    purpose: Purpose
    width: int
    stop: Callable[[], bool]
    each_round: Callable[[], None] = nothing
    _opponents: Opponents = field(init=False)
    """Versions in other seats. `serving` is the one that served when this player was made: the same for both sides."""
    _batches: int = 0

    def __post_init__(self) -> None:
        self._opponents = self.versions.opponents(serving(self.versions.store).name)

    def scores(self, version: str, draws: Sequence[Draw]) -> list[float | None]:
        """One score in [0, 1] for each draw; None if the episode could not be scored. Raises `Interrupted`."""
        environments = {name: self.load(name) for name in dict.fromkeys(name for name, _ in draws)}
        engine = self.versions.engine
        self.versions.unpin()
        sampler = self.versions.pin(version)
        self._batches += 1
        attempts = [self._attempt(environments[name], version, seed, member) for member, (name, seed) in enumerate(draws)]
        episodes = play(
            attempts,
            engine.policy(sampler),
            engine.chat,
            sampler,
            self.journal,
            temperature=0.0,
            width=self.width,
            context_limit=engine.context_limit,
            stop=self.stop,
            each_round=self.each_round,
            opponents=self._opponents,
        )
        if self.stop():
            raise Interrupted(f"job {self.lease.subject} was stopped while it played held-out tasks")
        return [episode.score if episode.state == "completed" else None for episode in episodes]

    def _attempt(self, environment: Environment, version: str, seed: int, member: int) -> Attempt:
        group = f"job-{self.lease.subject}.{self.lease.attempt}-{self.purpose}-{self._batches}-{version}"
        return Attempt(environment=environment, seed=seed, group=group, member=member, purpose=self.purpose, lease=self.lease)
