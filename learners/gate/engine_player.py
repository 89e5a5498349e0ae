"""Held-out episodes for the gate and for `perdure probe`, on the engine that serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from perdure.envs.environment import Environment
from perdure.envs.playing import Attempt
from perdure.envs.rollout import Opponents, play
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.gate.player import Draw, Sampling, Scores
from perdure.learners.learning_job import Interrupted, JobRun
from perdure.memory.records import Episode, Purpose
from perdure.memory.versions import serving


@dataclass(slots=True, kw_only=True)
class EnginePlayer:
    """The `Player` of the gate on an engine. Episodes are journaled under the job's lease."""

    versions: LoadedVersions
    run: JobRun
    load: Callable[[str], Environment]
    purpose: Purpose
    sampling: Sampling
    width: int
    _opponents: Opponents = field(init=False)
    """Versions in other seats. `serving` is the one that served when this player was made: the same for both sides."""
    _batches: int = 0

    def __post_init__(self) -> None:
        self._opponents = self.versions.opponents(serving(self.versions.store).name)

    def scores(self, version: str, draws: Sequence[Draw]) -> list[Scores]:
        """The scores of the answers to each draw, each from draws of its own. Raises `Interrupted`.

        An episode that failed is played once more before it counts, since a failure by chance would count as a loss.
        """
        samples = self.sampling.samples
        wanted = [(draw, number) for draw in draws for number in range(samples)]
        episodes = self._play(version, wanted)
        failed = [n for n, episode in enumerate(episodes) if episode.state != "completed"]
        for n, episode in zip(failed, self._play(version, [wanted[n] for n in failed]), strict=True):
            episodes[n] = episode
        scored = [episode.score if episode.state == "completed" else None for episode in episodes]
        return [tuple(scored[n : n + samples]) for n in range(0, len(scored), samples)]

    def _play(self, version: str, answers: Sequence[tuple[Draw, int]]) -> list[Episode]:
        """One batch: answers to draws, each with its number. Those of one draw are a group, and share their prompt."""
        if not answers:
            return []
        environments = {name: self.load(name) for name in dict.fromkeys(name for (name, _), _ in answers)}
        engine = self.versions.engine
        self.versions.unpin()
        sampler = self.versions.pin(version)
        self._batches += 1
        lease = self.run.lease
        batch = f"job-{lease.subject}.{lease.attempt}-{self.purpose}-{self._batches}-{version}"
        groups = {draw: f"{batch}-{n}" for n, draw in enumerate(dict.fromkeys(draw for draw, _ in answers))}
        attempts = [
            Attempt(
                environment=environments[draw[0]],
                seed=draw[1],
                group=groups[draw],
                member=number,
                purpose=self.purpose,
                lease=lease,
            )
            for draw, number in answers
        ]
        episodes = play(
            attempts,
            engine.policy(sampler),
            engine.chat,
            sampler,
            self.run.journal,
            temperature=self.sampling.temperature,
            width=self.width,
            context_limit=engine.context_limit,
            stop=self.run.stop,
            each_round=self.run.each_round,
            opponents=self._opponents,
        )
        if self.run.stop():
            raise Interrupted(f"job {lease.subject} was stopped while it played held-out tasks")
        return episodes
