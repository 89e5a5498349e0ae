"""One update of a learning job, written out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perdure.learners.batch_steps import Batch, learn_batch
from perdure.learners.batches import Lesson, Turns
from perdure.learners.checkpoint import Checkpoint, write_checkpoint
from perdure.learners.diagnostics import drift_of, group_stats, mean, ratio_stats, spread_sample
from perdure.learners.gradients import Measured
from perdure.learners.learning_job import LearningJob, check_lengths, check_stop
from perdure.learners.options import GrpoOptions
from perdure.learners.ranks.rank_bytes import batch_bytes
from perdure.learners.ranks.ranks import leads
from perdure.learners.sampling.batch_sampling import Sampled
from perdure.memory import faults
from perdure.memory.contracts.results import GroupStats, Update
from perdure.memory.errors import Diverged
from perdure.memory.jobs import add_step
from perdure.memory.records import Episode
from perdure.memory.trajectories.manifests import write_manifest
from perdure.memory.trajectories.traces import recent_groups

MEASURED_GROUPS = 2
"""Groups of each old environment on which KL is measured if none is replayed."""
NOT_TAUGHT: Mapping[Lesson, Turns] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedData:
    """The data of a learner that uses fixed episodes."""

    lessons: int
    staleness: float | None
    """How far behind the sampling policies were, on average; None if unknown."""
    played: GroupStats | None = None
    """Statistics of the episodes, if the job played them itself before this update."""


def update(
    job: LearningJob,
    lessons: Sequence[Lesson],
    sampled: Sampled,
    *,
    signal: float = 1.0,
    taught: Mapping[Lesson, Turns] = NOT_TAUGHT,
    fixed: FixedData | None = None,
    rate_span: tuple[int, int] | None = None,
) -> None:
    """Make one update from these lessons, load the new weights for sampling, and write the step and the checkpoint.

    `signal` is the share of the targets' data that teaches something, and the rate is proportional to it: AdamW makes every step equally
    large, so that a batch with little to learn would move the weights as far as any other. If it is 0, or without lessons, weights and
    optimiser stay as they are, and the rate is written down as 0. Lessons of `taught` follow the teacher, which sees these turns; `fixed`
    describes the data of a learner on fixed episodes, and over `rate_span`, by default the whole job, the rate falls to zero. Raises
    `Interrupted`, `Diverged` if gradient or weights are not finite, `InputError` if an episode is longer than the model's context.
    """
    check_stop(job)
    started = time.perf_counter()
    lr = signal * planned_rate(job, rate_span) if lessons else 0.0
    lessons = lessons if lr else []
    options, progress, tally, trainee = job.options, job.progress, job.tally, job.trainee
    job.engine.release_memory()
    check_lengths(job, lessons)
    _write_batch(job, lessons, sampled)
    passes = _passes(job, lessons)
    batch = Batch(
        lessons=lessons,
        measured=_measured(job, lessons, sampled) if passes else (),
        taught=taught,
        most_tokens=max(environment.max_tokens for environment in job.environments.targets),
        passes=passes,
        lr=lr,
    )
    if passes and leads(trainee.ranks):
        trainee.ranks.tell("batch", batch_bytes(batch))
    with trainee.ranks.reporting():
        stepped = learn_batch(trainee, batch, options, job.retention)
    seen = stepped.seen
    if not stepped.is_finite:
        raise Diverged(
            f"update {progress.step + 1} of job {job.id} has diverged (gradient norm {stepped.norm}): learn with a smaller lr than "
            f"{options.common.lr}, or with smaller weights for KL and replay"
        )

    trainee.release_memory()
    job.engine.unload(job.sampler)
    progress.step += 1
    job.engine.load(job.sampler, trainee.weights())
    made = Update(
        update=progress.step,
        groups=fixed.played if fixed and fixed.played else group_stats(sampled.target, sampled.old, sampled.spoilt),
        ratios=ratio_stats(seen.log_ratios),
        drift=drift_of(seen.divergences, trainee.serving),
        staleness=sampled.staleness,
        nll=mean(seen.nll),
        kl_loss=mean(seen.kl),
        extra_losses=seen.extra,
        tokens=sum(lesson.tokens for lesson in lessons),
        sampled_tokens=tally.sampled_tokens,
        grad_norm=stepped.norm,
        lr=lr,
        sampling_s=tally.sampling_s,
        learning_s=time.perf_counter() - started,
        lessons=fixed.lessons if fixed else None,
        data_staleness=fixed.staleness if fixed else sampled.data_staleness,
    )
    tally.sampling_s, tally.sampled_tokens = 0.0, 0
    tally.updates.append(made)
    add_step(job.run.store, job.run.lease, made)
    job.run.keep_step(progress.step, trainee.weights())
    faults.point("between-step-and-checkpoint")
    write_checkpoint(job.run.store.home, job.id, Checkpoint(progress=progress, state=trainee.state()))


def planned_rate(job: LearningJob, span: tuple[int, int] | None = None) -> float:
    """The rate of the next update if all of its data teach something.

    It falls linearly to zero over the updates of `span`, by default all. The first w = `warmup` steps have 1 / w, 2 / w and so on of it:
    AdamW's first steps are as large for noise as for signal, because it does not know yet how much a gradient varies. w is at most a
    quarter of the updates.
    """
    begin, end = span or (0, job.progress.updates)
    steps = sum(bool(made.lr) for made in job.tally.updates[begin:])
    rising = max(1, min(job.options.common.warmup, (end - begin) // 4))
    return job.options.common.lr * min(1.0, (steps + 1) / rising) * (1 - (job.progress.step - begin) / (end - begin))


def _passes(job: LearningJob, lessons: Sequence[Lesson]) -> int:
    """Optimiser steps on these lessons: several only for a policy gradient."""
    if not any(lesson.advantage for lesson in lessons):
        return 1 if lessons else 0
    return job.options.of(GrpoOptions).passes


def _write_batch(job: LearningJob, lessons: Sequence[Lesson], sampled: Sampled) -> None:
    """Write the manifest of the update, unless no episode is in it."""
    played = _ids(sampled)
    reused = {lesson.episode for lesson in lessons if lesson.episode is not None} - played
    if played or reused:
        write_manifest(job.run.store, job.run.lease, job.progress.step + 1, sorted(played), sampled.on_policy, reused=sorted(reused))


def _measured(job: LearningJob, lessons: Sequence[Lesson], sampled: Sampled) -> list[Measured]:
    """Episodes on which KL to the references is measured: some of targets (played, else imitated) and of others (replayed, else live)."""
    most = job.options.common.measure
    played = _ids(sampled)
    imitated = [lesson.turns for lesson in lessons if lesson.of_target and lesson.imitation and lesson.episode not in played]
    new = spread_sample(sampled.target, most) or imitated[:most]
    old = spread_sample(sampled.old or _live_groups(job), most) if most else []
    return [Measured(turns=turns, is_old=False) for turns in new] + [Measured(turns=turns, is_old=True) for turns in old]


def _live_groups(job: LearningJob) -> list[list[Episode]]:
    """Some groups of live play in each old environment."""
    if job.tally.live_groups is None:
        job.tally.live_groups = [
            group
            for environment in job.environments.old
            for group in recent_groups(job.run.store, environment.name, MEASURED_GROUPS, until=job.progress.newest)
        ]
    return job.tally.live_groups


def _ids(sampled: Sampled) -> set[int]:
    return {episode.id for group in (*sampled.target, *sampled.old) for episode in group}
