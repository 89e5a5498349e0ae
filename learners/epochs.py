"""Which of the episodes at hand a supervised learner learns from, in which order, and how often."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from perdure.learners.batches import Group, Lesson, replayed
from perdure.learners.diagnostics import group_stats
from perdure.learners.gradients import ExtraLoss, ProjectGradient
from perdure.learners.workbench import FixedData, Sampled, Workbench
from perdure.memory.records import Episode


def per_task(groups: Sequence[Group], most: int) -> list[list[Episode]]:
    """The successes of each group, at most so many, in the order of play."""
    return [[episode for episode in group if episode.success][:most] for group in groups]


def imitation_epochs(
    workbench: Workbench,
    lessons: Sequence[Lesson],
    extra_losses: Mapping[str, ExtraLoss],
    project_gradient: ProjectGradient | None,
    data_staleness: float | None = None,
    start: Sampled | None = None,
) -> None:
    """Make the updates that are left from fixed lessons: every epoch in another order, replay played afresh beside each batch. There are no
    more updates than lessons in all epochs. `start` is what step 0 sampled, where they come from that; the first update tells how it went.

    The order hangs on the seed alone, so that a job that is taken up again goes on where it was.
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
        batch += replayed(fresh.old, options)
        batch += workbench.stored()
        done = workbench.step / updates
        workbench.update(batch, fresh, on_policy=True, extra_losses=extra_losses, project_gradient=project_gradient, fixed=fixed, done=done)


def wanted_tasks(workbench: Workbench) -> int:
    """How many tasks of the targets a learner that samples for each update would attempt over the whole job."""
    options = workbench.options
    share = 1 - options.replay if workbench.old else 1.0
    return max(1, round(options.prompts * share * options.updates))


def wanted(workbench: Workbench) -> int:
    """How many episodes of the targets such a learner would play."""
    return wanted_tasks(workbench) * workbench.options.samples
