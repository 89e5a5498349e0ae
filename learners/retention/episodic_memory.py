"""The memory of EWC and GEM: stored successes of old environments."""

from __future__ import annotations

from itertools import islice

from perdure.learners.batches import Lesson, lesson
from perdure.learners.learning_job import LearningJob
from perdure.memory.errors import InputError
from perdure.memory.trajectories.traces import live_traces


def episodic_memory(job: LearningJob) -> list[list[Lesson]]:
    """For each old environment with successes in live play, the newest of them, as many as the option `memory` says.

    Raises `InputError` if there are none.
    """
    options = job.options.retention
    memories: list[list[Lesson]] = []
    for environment in job.environments.old:
        traces = live_traces(job.run.store, [environment.name], options.staleness, job=job.id)
        won = (trace.episode for trace in traces if all(episode.success for episode in job.rewarder([trace.episode])))
        lessons = [lesson(episode) for episode in islice(won, options.memory)]
        if lessons:
            memories.append(lessons)
    if not memories:
        raise InputError("ewc and gem need stored successes of old environments, and there are none yet: let them be played first")
    return memories
