"""Supervised learning from fixed lessons over several epochs, and how many tasks and episodes it uses."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from perdure.learners.batches import Group, Lesson
from perdure.learners.diagnostics import group_stats
from perdure.learners.learning_job import LearningJob, check_lengths
from perdure.learners.old_lessons import with_other_lessons
from perdure.learners.sampling.batch_environments import share_of_targets
from perdure.learners.sampling.batch_sampling import Sampled, sample_replay
from perdure.learners.selection.checking import check_and_go_on
from perdure.learners.updating import FixedData, update
from perdure.memory.records import Episode


def per_task(groups: Sequence[Group], most: int) -> list[list[Episode]]:
    """The first successes of each group, at most `most`."""
    return [[episode for episode in group if episode.success][:most] for group in groups]


def imitation_epochs(
    job: LearningJob, lessons: Sequence[Lesson], epochs: int, *, data_staleness: float | None = None, start: Sampled | None = None
) -> None:
    """Make the remaining updates from fixed lessons, in another order each epoch, with fresh replay beside each batch.

    There are at most as many updates as lessons in all epochs. `start` has the episodes of step 0 if the lessons come from them; the first
    update reports their statistics. The order depends on the seed alone, so a resumed job continues in it.
    """
    progress = job.progress
    check_lengths(job, lessons)
    order = shuffled_epochs(len(lessons), epochs, job.options.common.seed)
    progress.updates = min(job.options.common.updates, len(order))
    while check_and_go_on(job):
        begin, end = (len(order) * n // progress.updates for n in (progress.step, progress.step + 1))
        fresh = replace(sample_replay(job), staleness=None if start is None else float(progress.step))
        played = None if start is None or progress.step else group_stats(start.target, fresh.old, start.spoilt + fresh.spoilt)
        fixed = FixedData(lessons=len(lessons), staleness=data_staleness, played=played)
        update(job, with_other_lessons(job, [lessons[i] for i in order[begin:end]], fresh), fresh, fixed=fixed)


def shuffled_epochs(lessons: int, epochs: int, seed: int) -> list[int]:
    """The numbers of the lessons, in another order each epoch."""
    order: list[int] = []
    for epoch in range(epochs):
        shuffled = list(range(lessons))
        random.Random(f"{seed}.{epoch}").shuffle(shuffled)
        order += shuffled
    return order


def target_tasks(job: LearningJob) -> int:
    """The number of target tasks that a learner that samples for each update attempts in a whole job."""
    common = job.options.common
    share = share_of_targets(job.options, with_old=bool(job.environments.old))
    return max(1, round(common.prompts * share * common.updates))


def target_episodes(job: LearningJob) -> int:
    """The number of target episodes that such a learner plays."""
    return target_tasks(job) * job.options.common.samples
