"""Held-out episodes for the gate and for `perdure probe`: how draws are played on an engine, and the `Player` that does it here.

Another process that plays errands of a job does the same (`agent/cluster/judging/errand_play.py`), so that an answer is worth the same
wherever it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from perdure.envs.environment import Environment
from perdure.envs.playing import Attempt
from perdure.envs.policy import Chat, Policy
from perdure.envs.rollout import Journal, play
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.gate.player import Draw, Sampling, Scores
from perdure.learners.learning_job import Interrupted, JobRun
from perdure.memory.errands.errand_records import again
from perdure.memory.records import Episode, Lease, Purpose, VersionRef
from perdure.memory.versions import serving


class HeldOutModel(Protocol):
    """What held-out play needs of a model: `LoadedModel` here, or what a player on another machine has."""

    @property
    def chat(self) -> Chat: ...

    @property
    def context_limit(self) -> int: ...

    def load(self, version: str) -> Policy:
        """The policy of this version; others may be unloaded. Raises `UnknownError` or `RuntimeFailure` if it cannot be had."""
        ...

    def opponent(self, version: str) -> Policy:
        """The policy of this version, beside the one that was loaded. Raises as `load` does."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutPlay:
    """What held-out draws are played with, and for whom."""

    model: HeldOutModel
    load: Callable[[str], Environment]
    journal: Journal
    lease: Lease
    """Of the job: its episodes are journaled under it."""
    purpose: Purpose
    sampling: Sampling
    serving: str
    """The version that the opponent 'serving' stands for."""
    width: int
    """Episodes at once."""
    stop: Callable[[], bool]
    each_round: Callable[[], None]


def play_held_out(with_: HeldOutPlay, version: str, draws: Sequence[Draw], groups: Sequence[str]) -> list[Scores]:
    """The scores of the answers to each draw, whose episodes are one group. Raises `Interrupted`.

    An episode that failed is played once more before it counts, since a failure by chance would count as a loss.
    """
    samples = with_.sampling.samples
    wanted = [(draw, group, number) for draw, group in zip(draws, groups, strict=True) for number in range(samples)]
    episodes = _play(with_, version, wanted)
    failed = [n for n, episode in enumerate(episodes) if episode.state != "completed"]
    once_more = [(draw, again(group), number) for draw, group, number in (wanted[n] for n in failed)]
    for n, episode in zip(failed, _play(with_, version, once_more), strict=True):
        episodes[n] = episode
    scored = [episode.score if episode.state == "completed" else None for episode in episodes]
    return [tuple(scored[n : n + samples]) for n in range(0, len(scored), samples)]


def _play(with_: HeldOutPlay, version: str, answers: Sequence[tuple[Draw, str, int]]) -> list[Episode]:
    """One batch: answers to draws, each with its group and its number in it. Those of one draw share their prompt."""
    if not answers:
        return []
    environments = {name: with_.load(name) for name in dict.fromkeys(name for (name, _), _, _ in answers)}
    sampler, policy = VersionRef(version), with_.model.load(version)

    def opponent(name: str) -> tuple[VersionRef, Policy]:
        played = with_.serving if name == "serving" else name
        return VersionRef(played), with_.model.opponent(played)

    attempts = [
        Attempt(
            environment=environments[draw[0]],
            seed=draw[1],
            group=group,
            member=number,
            purpose=with_.purpose,
            lease=with_.lease,
        )
        for draw, group, number in answers
    ]
    episodes = play(
        attempts,
        policy,
        with_.model.chat,
        sampler,
        with_.journal,
        temperature=with_.sampling.temperature,
        width=with_.width,
        context_limit=with_.model.context_limit,
        stop=with_.stop,
        each_round=with_.each_round,
        opponents=opponent,
    )
    if with_.stop():
        raise Interrupted(f"job {with_.lease.subject} was stopped while it played held-out tasks")
    return episodes


class LoadedModel:
    """`HeldOutModel` on the engine of a job. Few versions stay loaded: a gate asks its versions in turn."""

    def __init__(self, versions: LoadedVersions) -> None:
        self._versions = versions

    @property
    def chat(self) -> Chat:
        return self._versions.engine.chat

    @property
    def context_limit(self) -> int:
        return self._versions.engine.context_limit

    def load(self, version: str) -> Policy:
        self._versions.unpin()
        return self.opponent(version)

    def opponent(self, version: str) -> Policy:
        return self._versions.engine.policy(self._versions.pin(version))


@dataclass(slots=True, kw_only=True)
class EnginePlayer:
    """The `Player` of the gate on an engine. Episodes are journaled under the job's lease."""

    versions: LoadedVersions
    run: JobRun
    load: Callable[[str], Environment]
    purpose: Purpose
    sampling: Sampling
    width: int
    _serving: str = field(init=False)
    """The version that served when this player was made: as an opponent the same for both sides."""
    _batches: int = 0

    def __post_init__(self) -> None:
        self._serving = serving(self.versions.store).name

    def scores(self, version: str, draws: Sequence[Draw]) -> list[Scores]:
        """The scores of the answers to each draw, each from draws of its own. Raises `Interrupted`."""
        self._batches += 1
        lease = self.run.lease
        batch = f"job-{lease.subject}.{lease.attempt}-{self.purpose}-{self._batches}-{version}"
        held_out = HeldOutPlay(
            model=LoadedModel(self.versions),
            load=self.load,
            journal=self.run.journal,
            lease=lease,
            purpose=self.purpose,
            sampling=self.sampling,
            serving=self._serving,
            width=self.width,
            stop=self.run.stop,
            each_round=self.run.each_round,
        )
        return play_held_out(held_out, version, draws, [f"{batch}-{n}" for n in range(len(draws))])
