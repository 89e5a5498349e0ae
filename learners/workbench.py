"""The two parts of every learner: sample a batch of episodes with the current weights, and make one update from lessons.

A learner is a loop that calls them in its own order (`loops/grpo.py` is the shortest). Each update ends with a checkpoint, from which an
interrupted job resumes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from perdure.envs.environment import Environment
from perdure.envs.playing import Attempt
from perdure.envs.policy import Ids
from perdure.envs.rollout import Journal, Opponents, no_opponents, nothing, play
from perdure.envs.seeds import train_seed
from perdure.learners.batches import Lesson, completed, is_mixed, replay_lessons
from perdure.learners.checkpoint import Checkpoint, write_checkpoint
from perdure.learners.diagnostics import drift_stats, group_stats, mean, ratio_stats, spread_sample
from perdure.learners.engines.engine import Engine
from perdure.learners.gradients import ExtraLoss, PassStats, ProjectGradient, accumulate_gradient
from perdure.learners.options import LearnOptions
from perdure.learners.reward_source import Rewarder
from perdure.learners.trainee import Trainee
from perdure.memory import faults
from perdure.memory.contracts.results import Drift, GroupStats, Update
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.jobs import add_step, steps
from perdure.memory.records import Episode, Lease, Purpose, StepRef
from perdure.memory.store import Store
from perdure.memory.trajectories.manifests import write_manifest
from perdure.memory.trajectories.traces import episodes_of_step, recent_groups
from perdure.memory.versions import INITIAL

STORED_GROUPS = 64
"""Groups of each old environment that stored replay uses."""
MEASURED_GROUPS = 2
"""Groups of each old environment on which KL is measured if none is replayed."""


class Interrupted(RuntimeFailure):
    """The job was asked to stop; it can be resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The episodes of one round, by group."""

    target: list[list[Episode]]
    old: list[list[Episode]]
    spoilt: int
    """Episodes that did not complete; they are not used."""
    staleness: float | None
    """How many updates the sampling policy is behind; None if no policy of this job sampled them."""

    def part(self, n: int, of: int) -> Sampled:
        """The n-th of `of` parts. Environments were played in turn, so each part of neighbouring groups has all of them."""

        def cut(groups: list[list[Episode]]) -> list[list[Episode]]:
            return groups[len(groups) * n // of : len(groups) * (n + 1) // of]

        return Sampled(
            target=cut(self.target),
            old=cut(self.old),
            spoilt=self.spoilt if n == 0 else 0,
            staleness=None if self.staleness is None else self.staleness + n,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedData:
    """The data of a learner that uses fixed episodes."""

    lessons: int
    staleness: float | None
    """How far behind the sampling policies were, on average; None if unknown."""
    played: GroupStats | None = None
    """Statistics of the episodes, if the job played them itself before this update."""


NO_EXTRA_LOSSES: Mapping[str, ExtraLoss] = {}


@dataclass(slots=True, kw_only=True)
class Workbench:
    """The state of one running learning job."""

    store: Store
    lease: Lease
    journal: Journal
    engine: Engine
    trainee: Trainee
    options: LearnOptions
    targets: Sequence[Environment]
    old: Sequence[Environment]
    width: int
    stop: Callable[[], bool]
    each_round: Callable[[], None] = nothing
    """Called before each round of generation and before each update."""
    parent: str = INITIAL
    """The version that the job started from."""
    serving: str = INITIAL
    """The version that served at the start; KL is measured to it throughout the job."""
    opponents: Opponents = no_opponents
    rewarder: Rewarder
    """Rewards played episodes; `loops/trace_sft.py` uses stored rewards."""
    step: int = 0
    """The updates made so far."""
    updates: list[Update] = field(default_factory=list)
    """All updates, including those of earlier attempts."""
    learned: bool = False
    """Whether any update so far had something to learn from; set by the learner."""
    chosen: tuple[int, ...] = ()
    """Stored episodes that the job learns from, newest first; a resumed attempt uses the same ones."""
    _drawn: int = 0
    _target_groups: int = 0
    """Groups so far, of all environments and of targets, so that environments take turns across batches."""
    _played_s: float = 0.0
    _played_tokens: int = 0
    """Of play since the last update; counted in the next one."""
    _recent: dict[str, list[list[Episode]]] = field(default_factory=dict)
    """Stored mixed groups by environment, read once."""
    _live: list[list[Episode]] | None = None

    @property
    def sampler(self) -> StepRef:
        """The weights after `step` updates."""
        return StepRef(self.lease.subject, self.step)

    @property
    def context_limit(self) -> int:
        """The longest sequence, in tokens, that can be both sampled and learned from."""
        return min(self.engine.context_limit, self.trainee.context_limit)

    @property
    def names(self) -> str:
        """The names of the targets, for errors."""
        return ", ".join(environment.name for environment in self.targets)

    @property
    def most_tokens(self) -> int:
        """The most tokens of an answer in any target."""
        return max(environment.max_tokens for environment in self.targets)

    def start(self, checkpoint: Checkpoint | None = None) -> None:
        """Load the first weights into the engine: those of the start, or of the checkpoint."""
        if checkpoint is not None:
            self.trainee.resume(checkpoint.state)
            self.step = checkpoint.step
            self.updates = [step.update for step in steps(self.store, self.lease.subject) if step.n <= checkpoint.step]
            self._drawn, self._target_groups = checkpoint.counts
            self.chosen = checkpoint.chosen
            self.learned = checkpoint.learned
        self.engine.load(self.sampler, self.trainee.weights())

    def sample(self, prompts: int, refill: int = 0) -> Sampled:
        """Play fresh groups with the current weights: targets in turn, and old environments in turn for the share of replay.

        Groups with equal rewards are replaced by new ones, up to `refill` times (DAPO's dynamic sampling); they stay in the statistics.
        """
        options = self.options
        share = options.replay if self.old else 0.0
        groups = max(1, round(prompts * (1 - share)))
        sampled = self.play([*self._target_attempts(groups), *self._replay(prompts)])
        for _ in range(refill):
            lacking = groups - sum(is_mixed(group) for group in sampled.target)
            if lacking > 0:
                more = self.play(self._target_attempts(lacking))
                sampled = replace(sampled, target=sampled.target + more.target, spoilt=sampled.spoilt + more.spoilt)
        return sampled

    def sample_start(self, episodes: int) -> Sampled:
        """Groups with about this many episodes, played before the first update; a resumed job reads them from the store."""
        if self.step == 0:
            return self.play(self._target_attempts(-(-episodes // self.options.samples)))
        return Sampled(target=self.played_by_start(hinted=False), old=[], spoilt=0, staleness=float(self.step))

    def played_by_start(self, *, hinted: bool) -> list[list[Episode]]:
        """Groups of targets from the store that the job played before its first update, with hints or without."""
        episodes = self.rewarder(episodes_of_step(self.store, self.lease.subject, 0, hinted=hinted))
        return completed(_groups(episodes).values())

    def replay(self) -> Sampled:
        """Play the old environments of one update only."""
        return self.play(self._replay(self.options.prompts))

    def stored(self) -> list[Lesson]:
        """Lessons from stored mixed groups of old environments, newest first, with importance ratios (`options.stored`)."""
        options = self.options
        lessons: list[Lesson] = []
        for n in self.old_group_numbers(options.prompts, options.stored):
            name = self.old[n % len(self.old)].name
            if name not in self._recent:
                groups_of = recent_groups(self.store, name, STORED_GROUPS)
                cut = completed(self.rewarder(group)[: options.replay_samples] for group in groups_of)
                self._recent[name] = [group for group in cut if is_mixed(group)]
            if groups := self._recent[name]:
                group = groups[n // len(self.old) % len(groups)]
                lessons += replay_lessons([group], options)
        return lessons

    def play(self, attempts: Iterable[Attempt]) -> Sampled:
        """Play these attempts, if any, with the current weights. Raises `Interrupted`."""
        started = time.perf_counter()
        episodes = play(
            list(attempts),
            self.engine.policy(self.sampler),
            self.engine.chat,
            self.sampler,
            self.journal,
            temperature=self.options.temperature,
            width=self.width,
            context_limit=self.context_limit,
            stop=self.stop,
            each_round=self.each_round,
            opponents=self.opponents,
        )
        self._check_stop()
        self._played_s += time.perf_counter() - started
        self._played_tokens += sum(len(turn.action_ids) for episode in episodes for turn in episode.turns)
        groups = _groups(self.rewarder(episodes))
        return Sampled(
            target=completed(group for group in groups.values() if group[0].purpose in ("learn", "hinted")),
            old=completed(group for group in groups.values() if group[0].purpose == "replay"),
            spoilt=sum(episode.state != "completed" for episode in episodes),
            staleness=0.0,
        )

    def _live_groups(self) -> list[list[Episode]]:
        """Some groups of live play in each old environment, for measurements if nothing is replayed."""
        if self._live is None:
            groups = [recent_groups(self.store, environment.name, MEASURED_GROUPS) for environment in self.old]
            self._live = [group for several in groups for group in several]
        return self._live

    def task(self, environment: Environment, n: int) -> int:
        """The seed of this job's n-th task of an environment."""
        return train_seed(self.options.seed, f"{environment.name} for job {self.lease.subject}", n)

    def group(self, environment: Environment, purpose: Purpose, members: int) -> list[Attempt]:
        """Attempts at one fresh task of an environment, as one group."""
        seed = self.task(environment, self._drawn)
        name = f"job-{self.lease.subject}.{self.lease.attempt}-{self._drawn}"
        self._drawn += 1
        return [
            Attempt(environment=environment, seed=seed, group=name, member=member, purpose=purpose, lease=self.lease)
            for member in range(members)
        ]

    def _target_attempts(self, groups: int) -> list[Attempt]:
        """Attempts at this many fresh tasks of the targets, in turn."""
        chosen = [self.targets[(self._target_groups + n) % len(self.targets)] for n in range(groups)]
        self._target_groups += groups
        return [attempt for environment in chosen for attempt in self.group(environment, "learn", self.options.samples)]

    def _replay(self, prompts: int) -> list[Attempt]:
        """Attempts at fresh tasks of old environments in turn, for a batch of this many prompts."""
        options = self.options
        chosen = [self.old[n % len(self.old)] for n in self.old_group_numbers(prompts, 1 - options.stored)]
        return [attempt for environment in chosen for attempt in self.group(environment, "replay", options.replay_samples)]

    def old_group_numbers(self, prompts: int, share: float) -> range:
        """Which groups of old environments, numbered over the whole job, belong to this share of the replay for this many prompts.

        Fractions of a group add up over updates.
        """
        options = self.options
        each = options.samples * options.replay * share / options.replay_samples if self.old else 0.0
        before = options.prompts * self.step
        return range(math.floor(each * before + 0.5), math.floor(each * (before + prompts) + 0.5))

    def update(
        self,
        lessons: Sequence[Lesson],
        sampled: Sampled,
        *,
        on_policy: bool,
        extra_losses: Mapping[str, ExtraLoss] = NO_EXTRA_LOSSES,
        project_gradient: ProjectGradient | None = None,
        fixed: FixedData | None = None,
        done: float | None = None,
    ) -> None:
        """Make one update with `options.passes` passes over the lessons, and load the new weights; without lessons they stay the same.

        `fixed` describes the data of a learner on fixed episodes. lr = options.lr * (1 - done); `done` defaults to step / updates.
        Raises `Interrupted`, `RuntimeFailure` if it diverged, `InputError` if an episode is longer than the model's context.
        """
        self._check_stop()
        started = time.perf_counter()
        options = self.options
        self.engine.release_memory()
        self.check_lengths(lessons)
        ids = {episode.id for group in (*sampled.target, *sampled.old) for episode in group}
        reused = {lesson.episode for lesson in lessons if lesson.episode is not None} - ids
        if ids or reused:
            write_manifest(self.store, self.lease, self.step + 1, sorted(ids), on_policy, reused=sorted(reused))
        drift = Drift()
        if options.measure:
            imitated = [lesson.turns for lesson in lessons if lesson.imitation and lesson.episode not in ids]
            new = spread_sample(sampled.target, options.measure) or imitated[: options.measure]
            old = spread_sample(sampled.old or self._live_groups(), options.measure)
            drift = drift_stats(self.trainee, new, old, options.temperature, options.budget_tokens)
        lr = options.lr * (1 - (self.step / options.updates if done is None else done))
        norm, seen = 0.0, PassStats()
        old_logprobs: dict[Lesson, Tensor] = {}
        for nth in range(options.passes if any(lesson.advantage for lesson in lessons) else 1):
            if not lessons:
                break
            stats = accumulate_gradient(
                self.trainee, lessons, options, most_tokens=self.most_tokens, old_logprobs=old_logprobs, extra_losses=extra_losses
            )
            seen = stats if nth == 0 else seen
            if project_gradient is not None:
                self.trainee.put_gradient(project_gradient(self.trainee, self.trainee.take_gradient()))
            norm = self.trainee.step(lr, options.max_grad_norm)
            if not math.isfinite(norm):
                raise RuntimeFailure(
                    f"update {self.step + 1} of job {self.lease.subject} has diverged (gradient norm {norm}): learn with a smaller lr than "
                    f"{options.lr}, or with smaller weights for KL and replay"
                )
        if options.teacher == "slow" and "teacher" in self.trainee.references:
            self.trainee.follow(options.teacher_rate)
        self.trainee.release_memory()
        self.engine.unload(self.sampler)
        self.step += 1
        self.engine.load(self.sampler, self.trainee.weights())
        learning_s = time.perf_counter() - started
        tokens = sum(lesson.tokens for lesson in lessons)
        sampling_s, sampled_tokens = self._played_s, self._played_tokens
        self._played_s, self._played_tokens = 0.0, 0
        update = Update(
            update=self.step,
            groups=fixed.played if fixed and fixed.played else group_stats(sampled.target, sampled.old, sampled.spoilt),
            ratios=ratio_stats(seen.log_ratios),
            drift=drift,
            staleness=sampled.staleness,
            nll=mean(seen.nll),
            kl_loss=mean(seen.kl),
            extra_losses=seen.extra,
            tokens=tokens,
            sampled_tokens=sampled_tokens,
            grad_norm=norm,
            lr=lr,
            sampling_s=sampling_s,
            learning_s=learning_s,
            lessons=fixed.lessons if fixed else None,
            data_staleness=fixed.staleness if fixed else None,
        )
        self.updates.append(update)
        add_step(self.store, self.lease, update)
        faults.point("between-step-and-checkpoint")
        counts = self._drawn, self._target_groups
        state = self.trainee.state()
        checkpoint = Checkpoint(
            step=self.step,
            start=self.parent,
            serving=self.serving,
            state=state,
            counts=counts,
            chosen=self.chosen,
            learned=self.learned,
        )
        write_checkpoint(self.store.home, self.lease.subject, checkpoint)

    def _check_stop(self) -> None:
        self.each_round()
        if self.stop():
            raise Interrupted(f"job {self.lease.subject} was stopped after {self.step} updates")

    def fits(self, sequences: Iterable[Ids]) -> bool:
        """Whether each sequence fits into the model's context."""
        return all(len(sequence) <= self.context_limit for sequence in sequences)

    def check_lengths(self, lessons: Iterable[Lesson]) -> None:
        """Raises `InputError` if a lesson is longer than the model's context."""
        for lesson in lessons:
            self.check_length("a demonstration" if lesson.episode is None else f"episode {lesson.episode}", lesson.sequences)

    def check_length(self, what: str, sequences: Sequence[Ids]) -> None:
        """Raises `InputError` if a sequence is longer than the model's context; the error calls them `what`."""
        if not self.fits(sequences):
            longest = max(map(len, sequences))
            raise InputError(
                f"{what} has {longest} tokens, but the context of {self.engine.files.name} only {self.context_limit}: leave it out, or "
                "set a smaller turn limit"
            )


def _groups(episodes: Iterable[Episode]) -> dict[str, list[Episode]]:
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(episode.group, []).append(episode)
    return groups
