"""The memory of EWC and GEM: stored successes of old environments."""

from __future__ import annotations

from itertools import islice

from perdure.learners.batches import Lesson, lesson
from perdure.learners.workbench import Workbench
from perdure.memory.errors import InputError
from perdure.memory.trajectories.traces import live_traces


def episodic_memory(workbench: Workbench) -> list[list[Lesson]]:
    """For each old environment with successes in live play, the newest `options.memory` of them.

    Raises `InputError` if there are none.
    """
    memories: list[list[Lesson]] = []
    for environment in workbench.old:
        traces = live_traces(workbench.store, [environment.name], workbench.options.staleness, job=workbench.lease.subject)
        won = (trace.episode for trace in traces if all(episode.success for episode in workbench.rewarder([trace.episode])))
        lessons = [lesson(episode) for episode in islice(won, workbench.options.memory)]
        if lessons:
            memories.append(lessons)
    if not memories:
        raise InputError("ewc and gem need stored successes of old environments, and there are none yet: let them be played first")
    return memories
