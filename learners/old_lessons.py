"""Lessons beside a learner's own: the KL term on the targets' other episodes, old environments as replayed or stored, general prompts."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.learners.batches import Lesson, completed, is_mixed, kl_only, replay_lessons
from perdure.learners.learning_job import LearningJob
from perdure.learners.retention.general.general_lessons import general_lessons
from perdure.learners.sampling.batch_environments import old_group_numbers
from perdure.learners.sampling.batch_sampling import Sampled
from perdure.memory.records import Episode
from perdure.memory.trajectories.traces import recent_groups

STORED_GROUPS = 64
"""Groups of each old environment that stored replay uses."""


def with_other_lessons(job: LearningJob, lessons: Sequence[Lesson], sampled: Sampled) -> list[Lesson]:
    """These lessons of targets; the KL term alone on the targets' other episodes, if it has a weight; and those of `old_lessons`."""
    return [*lessons, *kl_only(sampled.target, lessons, job.options.loss.kl), *old_lessons(job, sampled)]


def old_lessons(job: LearningJob, sampled: Sampled) -> list[Lesson]:
    """Lessons of old environments, replayed now and stored, and of general prompts, which are answered now. Raises `Interrupted`."""
    return [*replay_lessons(sampled.old, job.options), *stored_lessons(job), *general_lessons(job)]


def stored_lessons(job: LearningJob) -> list[Lesson]:
    """Lessons from stored mixed groups of old environments, newest first, with importance ratios (option `stored`)."""
    options, old = job.options, job.environments.old
    lessons: list[Lesson] = []
    for n in old_group_numbers(job, options.common.prompts, options.replay.stored):
        if groups := _stored_groups(job, old[n % len(old)].name):
            lessons += replay_lessons([groups[n // len(old) % len(groups)]], options)
    return lessons


def _stored_groups(job: LearningJob, environment: str) -> list[list[Episode]]:
    """Stored mixed groups of an environment, cut to the size of replayed ones."""
    known = job.tally.stored_groups
    if environment not in known:
        groups = recent_groups(job.run.store, environment, STORED_GROUPS, until=job.progress.newest)
        cut = completed(job.rewarder(group)[: job.options.replay.samples] for group in groups)
        known[environment] = [group for group in cut if is_mixed(group)]
    return known[environment]
