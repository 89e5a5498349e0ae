"""What every learner works with: how a batch of episodes is sampled with the current step, and how one update is made from lessons.

A learner is a loop that calls these two in its own order (`grpo.py` is the shortest). After each update the job keeps all that it needs to
go on from there, so that one that is interrupted does not start over.
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
from perdure.learners.batches import Lesson, completed, contrast, is_mixed
from perdure.learners.checkpoint import Checkpoint, write_checkpoint
from perdure.learners.diagnostics import drift_stats, group_stats, mean, ratio_stats, some
from perdure.learners.engines.engine import Engine
from perdure.learners.gradients import ExtraLoss, Gathered, ProjectGradient, gather
from perdure.learners.losses import VARIANTS
from perdure.learners.options import LearnOptions
from perdure.learners.reward_source import Rewarder, from_environment
from perdure.learners.trainee import Trainee
from perdure.memory import faults
from perdure.memory.contracts.results import Drift, GroupStats, Update
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.jobs import add_step, steps
from perdure.memory.records import Episode, Lease, Purpose, StepRef
from perdure.memory.replay.manifests import write_manifest
from perdure.memory.replay.traces import episodes_of_step, recent_groups
from perdure.memory.store import Store
from perdure.memory.versions import INITIAL

STORED_GROUPS = 64
"""Groups of each old environment that stored replay looks at."""
MEASURED_GROUPS = 2
"""Groups of each old environment that KL is measured on where none is replayed."""


class Interrupted(RuntimeFailure):
    """The job was asked to stop; it may be taken up again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The episodes of one round, by group."""

    target: list[list[Episode]]
    old: list[list[Episode]]
    spoilt: int
    """Episodes that did not complete, and so are no data."""
    staleness: float | None
    """Updates that the policy which sampled them is behind; None where they have no such policy."""

    def part(self, n: int, of: int) -> Sampled:
        """The n-th of `of` parts, each of neighbours: environments were played in turn, and so each part has all of them."""

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
    """What a learner on fixed data learns from."""

    lessons: int
    staleness: float | None
    """How far behind the policy was that played them, in the mean; None if nobody knows."""
    played: GroupStats | None = None
    """How the episodes went that they were taken from, if the job played them itself before this update."""


NONE: Mapping[str, ExtraLoss] = {}


@dataclass(slots=True, kw_only=True)
class Workbench:
    """One learning job at work. `step` counts the updates made so far."""

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
    """The version that served then: KL is measured to it as long as the job lasts."""
    opponents: Opponents = no_opponents
    rewarder: Rewarder = from_environment
    """Judges what is played; rewards that somebody gave stored episodes are the business of `trace_sft.py`."""
    step: int = 0
    updates: list[Update] = field(default_factory=list)
    """Those of earlier attempts included."""
    learned: bool = False
    """Whether any update so far had something to learn from; set by the learner."""
    chosen: tuple[int, ...] = ()
    """Stored episodes that the job has chosen to learn from, the newest first: an attempt that goes on finds the same ones."""
    _drawn: int = 0
    _aimed: int = 0
    """Groups so far: of all, and of targets. So each gets its turn where a batch is too small for all."""
    _played_s: float = 0.0
    _played_tokens: int = 0
    """What was played since the last update: the next one is charged with it."""
    _recent: dict[str, list[list[Episode]]] = field(default_factory=dict)
    """Stored mixed groups by environment, read once."""
    _seen: list[list[Episode]] | None = None

    @property
    def sampler(self) -> StepRef:
        return StepRef(self.lease.subject, self.step)

    @property
    def context_limit(self) -> int:
        """The longest sequence, in tokens, that can be both sampled and learned from."""
        return min(self.engine.context_limit, self.trainee.context_limit)

    @property
    def names(self) -> str:
        """The targets, to be named in an error."""
        return ", ".join(environment.name for environment in self.targets)

    @property
    def most_tokens(self) -> int:
        """The most tokens that an answer of the targets may have."""
        return max(environment.max_tokens for environment in self.targets)

    def start(self, checkpoint: Checkpoint | None = None) -> None:
        """Make the first step ready to sample: step 0, or the one that an interrupted attempt at this job had come to."""
        if checkpoint is not None:
            self.trainee.resume(checkpoint.state)
            self.step = checkpoint.step
            self.updates = [step.update for step in steps(self.store, self.lease.subject) if step.n <= checkpoint.step]
            self._drawn, self._aimed = checkpoint.counts
            self.chosen = checkpoint.chosen
            self.learned = checkpoint.learned
        self.engine.load(self.sampler, self.trainee.weights())

    def sample(self, prompts: int, refill: int = 0) -> Sampled:
        """Play fresh groups with the current step: targets in turn, and for the replay share old environments in turn.

        `refill` times as many groups are played again as have equal rewards (DAPO's dynamic sampling); those are kept for what they tell.
        """
        options = self.options
        share = options.replay if self.old else 0.0
        groups = max(1, round(prompts * (1 - share)))
        sampled = self.play([*self._aim(groups), *self._replay(prompts)])
        for _ in range(refill):
            lacking = groups - sum(is_mixed(group) for group in sampled.target)
            if lacking > 0:
                more = self.play(self._aim(lacking))
                sampled = replace(sampled, target=sampled.target + more.target, spoilt=sampled.spoilt + more.spoilt)
        return sampled

    def sample_start(self, episodes: int) -> Sampled:
        """Groups of about so many episodes, played by the start before the first update; a job that is taken up again reads them back."""
        if self.step == 0:
            return self.play(self._aim(-(-episodes // self.options.samples)))
        return Sampled(target=self.played_by_start(hinted=False), old=[], spoilt=0, staleness=float(self.step))

    def played_by_start(self, *, hinted: bool) -> list[list[Episode]]:
        """Groups of targets that the job played before its first update, read back: those with the right answer in sight, or the others."""
        episodes = self.rewarder(episodes_of_step(self.store, self.lease.subject, 0, hinted=hinted))
        return completed(_groups(episodes).values())

    def replay(self) -> Sampled:
        """Play old environments alone, as many as go with one update."""
        return self.play(self._replay(self.options.prompts))

    def stored(self) -> list[Lesson]:
        """Mixed groups of old environments that were played before, newest first, as lessons with importance ratios (`options.stored`)."""
        options = self.options
        lessons: list[Lesson] = []
        for n in self.old_groups(options.prompts, options.stored):
            name = self.old[n % len(self.old)].name
            if name not in self._recent:
                groups_of = recent_groups(self.store, name, STORED_GROUPS)
                cut = completed(self.rewarder(group)[: options.replay_samples] for group in groups_of)
                self._recent[name] = [group for group in cut if is_mixed(group)]
            if groups := self._recent[name]:
                lessons += contrast([groups[n // len(self.old) % len(groups)]], options.kl_old, VARIANTS[options.variant].advantages)
        return lessons

    def play(self, attempts: Iterable[Attempt]) -> Sampled:
        """Play these attempts, which may be none, with the current step. Raises `Interrupted`."""
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
        self._go_on()
        self._played_s += time.perf_counter() - started
        self._played_tokens += sum(len(turn.action_ids) for episode in episodes for turn in episode.turns)
        groups = _groups(self.rewarder(episodes))
        return Sampled(
            target=completed(group for group in groups.values() if group[0].purpose in ("learn", "hinted")),
            old=completed(group for group in groups.values() if group[0].purpose == "replay"),
            spoilt=sum(episode.state != "completed" for episode in episodes),
            staleness=0.0,
        )

    def _remembered(self) -> list[list[Episode]]:
        """What was played live in old environments, some of each: to measure on where nothing of them is replayed."""
        if self._seen is None:
            groups = [recent_groups(self.store, environment.name, MEASURED_GROUPS) for environment in self.old]
            self._seen = [group for several in groups for group in several]
        return self._seen

    def task(self, environment: Environment, n: int) -> int:
        """The seed of this job's n-th task of an environment."""
        return train_seed(self.options.seed, f"{environment.name} for job {self.lease.subject}", n)

    def group(self, environment: Environment, purpose: Purpose, members: int) -> list[Attempt]:
        """Attempts at one fresh task of an environment, to be compared with each other."""
        seed = self.task(environment, self._drawn)
        name = f"job-{self.lease.subject}.{self.lease.attempt}-{self._drawn}"
        self._drawn += 1
        return [
            Attempt(environment=environment, seed=seed, group=name, member=member, purpose=purpose, lease=self.lease)
            for member in range(members)
        ]

    def _aim(self, groups: int) -> list[Attempt]:
        """Attempts at fresh tasks of the targets in turn."""
        chosen = [self.targets[(self._aimed + n) % len(self.targets)] for n in range(groups)]
        self._aimed += groups
        return [attempt for environment in chosen for attempt in self.group(environment, "learn", self.options.samples)]

    def _replay(self, prompts: int) -> list[Attempt]:
        """Attempts at fresh tasks of old environments in turn, for a batch of so many prompts."""
        options = self.options
        chosen = [self.old[n % len(self.old)] for n in self.old_groups(prompts, 1 - options.stored)]
        return [attempt for environment in chosen for attempt in self.group(environment, "replay", options.replay_samples)]

    def old_groups(self, prompts: int, share: float) -> range:
        """The numbers, in the whole job, of the groups of old environments that are this share of the replay beside so many prompts.

        What is too little for one update adds up to a group after some.
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
        extra_losses: Mapping[str, ExtraLoss] = NONE,
        project_gradient: ProjectGradient | None = None,
        fixed: FixedData | None = None,
        done: float | None = None,
    ) -> None:
        """Learn from all lessons, `options.passes` times; the next step samples with the new weights, the same where there are no lessons.

        `fixed` says what a learner on fixed data learns from. The rate has fallen by the share `done`, that of the whole job unless given.
        Raises `Interrupted`, `RuntimeFailure` where it diverged, `InputError` for an episode that is longer than the model's context.

        Axes: A action tokens of a micro-batch.
        """
        self._go_on()
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
            imitated = [one.turns for one in lessons if one.imitation and one.episode not in ids]
            new = some(sampled.target, options.measure) or imitated[: options.measure]
            old = some(sampled.old or self._remembered(), options.measure)
            drift = drift_stats(self.trainee, new, old, options.temperature, options.budget_tokens)
        lr = options.lr * (1 - (self.step / options.updates if done is None else done))
        norm, seen = 0.0, Gathered()
        old_logprobs: dict[Lesson, Tensor] = {}
        for nth in range(options.passes if any(lesson.advantage for lesson in lessons) else 1):
            if not lessons:
                break
            gathered = gather(
                self.trainee, lessons, options, most_tokens=self.most_tokens, old_logprobs=old_logprobs, extra_losses=extra_losses
            )
            seen = gathered if nth == 0 else seen
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
        counts = self._drawn, self._aimed
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

    def _go_on(self) -> None:
        self.each_round()
        if self.stop():
            raise Interrupted(f"job {self.lease.subject} was stopped after {self.step} updates")

    def fits(self, sequences: Iterable[Ids]) -> bool:
        """Whether the model's context holds each of them."""
        return all(len(sequence) <= self.context_limit for sequence in sequences)

    def check_lengths(self, lessons: Iterable[Lesson]) -> None:
        """Raises `InputError` for a lesson with a sequence that is longer than the model's context."""
        for one in lessons:
            self.check_length("a demonstration" if one.episode is None else f"episode {one.episode}", one.sequences)

    def check_length(self, what: str, sequences: Sequence[Ids]) -> None:
        """The same for sequences of one origin, which the error names."""
        if not self.fits(sequences):
            longest = max(map(len, sequences))
            raise InputError(
                f"{what} has {longest} tokens, and the context of {self.engine.files.name} {self.context_limit}: leave it out, or set a "
                "smaller turn limit"
            )


def _groups(episodes: Iterable[Episode]) -> dict[str, list[Episode]]:
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(episode.group, []).append(episode)
    return groups
