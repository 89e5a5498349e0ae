"""One running learning job: what it has at hand, and how far it is.

A learner is a function of one job (`loops/grpo.py` is the shortest). While the job goes on (`selection/checking.py`), it samples episodes
(`batch_sampling.py`), makes lessons of them, and makes an update (`updating.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from perdure.envs.environment import Environment
from perdure.envs.policy import Ids
from perdure.envs.rollout import Journal, Opponents, never, no_opponents, nothing
from perdure.learners.batch_steps import Retention
from perdure.learners.batches import Lesson
from perdure.learners.checkpoint import Progress
from perdure.learners.engines.engine import Engine
from perdure.learners.options import LearnOptions
from perdure.learners.reward_source import Rewarder
from perdure.learners.trainees.trainee import Trainee
from perdure.learners.weights.weight_sets import Weights
from perdure.memory.contracts.results import Update
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.records import Episode, Lease, StepRef
from perdure.memory.store import Store


class Interrupted(RuntimeFailure):
    """The job was asked to stop; it can be resumed."""


KeepStep = Callable[[int, Weights], None]
"""Gets the number of an update and the weights after it, which are not a copy."""


def keep_no_step(update: int, weights: Weights) -> None:
    """Keep no weights but the candidate's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """The attempt that runs a job: where it writes, and what stops it."""

    store: Store
    lease: Lease
    journal: Journal
    stop: Callable[[], bool] = never
    each_round: Callable[[], None] = nothing
    """Called before each round of generation and before each update."""
    keep_step: KeepStep = keep_no_step
    """Called after each update, before its checkpoint: again for an update that an interrupted attempt has to repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnvironments:
    """What is played."""

    targets: Sequence[Environment]
    old: Sequence[Environment]
    opponents: Opponents = no_opponents

    @property
    def names(self) -> str:
        """The names of the targets, for errors."""
        return ", ".join(environment.name for environment in self.targets)


@dataclass(slots=True, kw_only=True)
class LiveSupply:
    """Groups of live play to learn from, by environment (`live_batches.py`)."""

    left: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    """Ids of the episodes of each group, newest group first."""
    taken: dict[str, int] = field(default_factory=dict)
    """How many the job has taken."""


@dataclass(slots=True, kw_only=True)
class JobTally:
    """What an attempt has in memory only."""

    updates: list[Update] = field(default_factory=list)
    """All updates of the job, including those of earlier attempts."""
    sampling_s: float = 0.0
    sampled_tokens: int = 0
    """Of play since the last update; counted in the next one."""
    stored_groups: dict[str, list[list[Episode]]] = field(default_factory=dict)
    """Stored mixed groups by environment, read once."""
    live_groups: list[list[Episode]] | None = None
    """Live groups of old environments to measure on, read once."""
    live_supply: LiveSupply | None = None
    """Read once."""
    checked_step: int | None = None
    """The last step that was checked (`selection/checking.py`)."""
    ended_early: str | None = None
    """Why the job makes no further update; None if it goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningJob:
    """One running learning job."""

    run: JobRun
    options: LearnOptions
    engine: Engine
    trainee: Trainee
    environments: JobEnvironments
    progress: Progress
    rewarder: Rewarder
    """Rewards played episodes; `loops/trace_sft.py` uses stored rewards."""
    retention: Retention = field(default_factory=Retention)
    tally: JobTally = field(default_factory=JobTally)

    @property
    def id(self) -> int:
        return self.run.lease.subject

    @property
    def sampler(self) -> StepRef:
        """The current weights, as the engine knows them."""
        return StepRef(self.id, self.progress.step)

    @property
    def context_limit(self) -> int:
        """The longest sequence, in tokens, that can be both sampled and learned from."""
        return min(self.engine.context_limit, self.trainee.context_limit)


def check_stop(job: LearningJob) -> None:
    """Raise `Interrupted` if the job was asked to stop."""
    job.run.each_round()
    if job.run.stop():
        raise Interrupted(f"job {job.id} was stopped after {job.progress.step} updates")


def fits(job: LearningJob, sequences: Iterable[Ids]) -> bool:
    """Whether each sequence fits into the model's context."""
    return all(len(sequence) <= job.context_limit for sequence in sequences)


def check_length(job: LearningJob, what: str, sequences: Sequence[Ids]) -> None:
    """Raise `InputError` if a sequence is longer than the model's context; the error calls them `what`."""
    if not fits(job, sequences):
        raise InputError(
            f"{what} has {max(map(len, sequences))} tokens, but the context of {job.engine.files.name} only {job.context_limit}: leave it "
            "out, or set a smaller turn limit"
        )


def check_lengths(job: LearningJob, lessons: Iterable[Lesson]) -> None:
    """Raise `InputError` if a lesson is longer than the model's context."""
    for lesson in lessons:
        check_length(job, "a demonstration" if lesson.episode is None else f"episode {lesson.episode}", lesson.sequences)
