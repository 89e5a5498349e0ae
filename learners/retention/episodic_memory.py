"""Stored successes of old environments: what EWC and GEM hold on to."""

from __future__ import annotations

from itertools import islice

from perdure.learners.batches import Lesson, lesson
from perdure.learners.workbench import Workbench
from perdure.memory.errors import InputError
from perdure.memory.replay.traces import live_traces


def episodic_memory(workbench: Workbench) -> list[list[Lesson]]:
    """The newest successes in live play of each old environment that has any, at most `options.memory` of one.

    Raises `InputError` where no old environment has one.
    """
    found: list[list[Lesson]] = []
    for environment in workbench.old:
        traces = live_traces(workbench.store, [environment.name], workbench.options.staleness, job=workbench.lease.subject)
        won = (trace.episode for trace in traces if all(episode.success for episode in workbench.rewarder([trace.episode])))
        lessons = [lesson(episode) for episode in islice(won, workbench.options.memory)]
        if lessons:
            found.append(lessons)
    if not found:
        raise InputError("ewc and gem hold on to stored successes of old environments, and there are none yet: let them be played first")
    return found
