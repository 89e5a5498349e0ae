"""Supervised learning from fixed lessons over several epochs, and how many tasks and episodes it uses."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from perdure.learners.batches import Group, Lesson, replay_lessons
from perdure.learners.diagnostics import group_stats
from perdure.learners.gradients import ExtraLoss, ProjectGradient
from perdure.learners.workbench import FixedData, Sampled, Workbench
from perdure.memory.records import Episode


def per_task(groups: Sequence[Group], most: int) -> list[list[Episode]]:
    """The first successes of each group, at most `most`."""
    return [[episode for episode in group if episode.success][:most] for group in groups]


def imitation_epochs(
    workbench: Workbench,
    lessons: Sequence[Lesson],
    extra_losses: Mapping[str, ExtraLoss],
    project_gradient: ProjectGradient | None,
    data_staleness: float | None = None,
    start: Sampled | None = None,
) -> None:
    """Make the remaining updates from fixed lessons, in another order each epoch, with fresh replay beside each batch.

    There are at most as many updates as lessons in all epochs. `start` has the episodes of step 0 if the lessons come from them; the first
    update reports their statistics. The order depends on the seed alone, so a resumed job continues in it.
    """
    options = workbench.options
    workbench.check_lengths(lessons)
    order: list[int] = []
    for epoch in range(options.epochs):
        shuffled = list(range(len(lessons)))
        random.Random(f"{options.seed}.{epoch}").shuffle(shuffled)
        order += shuffled
    updates = min(options.updates, len(order))
    while workbench.step < updates:
        begin, end = (len(order) * n // updates for n in (workbench.step, workbench.step + 1))
        fresh = replace(workbench.replay(), staleness=None if start is None else float(workbench.step))
        played = None if start is None or workbench.step else group_stats(start.target, fresh.old, start.spoilt + fresh.spoilt)
        fixed = FixedData(lessons=len(lessons), staleness=data_staleness, played=played)
        batch = [lessons[i] for i in order[begin:end]]
        batch += replay_lessons(fresh.old, options)
        batch += workbench.stored()
        done = workbench.step / updates
        workbench.update(batch, fresh, on_policy=True, extra_losses=extra_losses, project_gradient=project_gradient, fixed=fixed, done=done)


def target_tasks(workbench: Workbench) -> int:
    """The number of target tasks that a learner that samples for each update attempts in a whole job."""
    options = workbench.options
    share = 1 - options.replay if workbench.old else 1.0
    return max(1, round(options.prompts * share * options.updates))


def target_episodes(workbench: Workbench) -> int:
    """The number of target episodes that such a learner plays."""
    return target_tasks(workbench) * workbench.options.samples
