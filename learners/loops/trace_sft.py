"""SFT on traces: imitates successes in the store from live play, another job or an import, newest first.

Episodes of an RL run are on-policy for that run, and nearly on-policy for a similar model: much of RL's retention at the price of SFT (Chen
et al. 2025, appendix on SFT with RL traces). `traces` chooses live play (`stream`), a job of this home, or an import. `staleness` limits
how far behind the sampling policy may be. Tokens are learned as they were sampled; imported episodes of another model are learned from
their texts. All successes of an import's label are learned, whatever the names of its environments; their staleness is unknown, and
`per_task` applies to those with a seed.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from perdure.learners.batches import Lesson, lesson
from perdure.learners.epochs import imitation_epochs, target_episodes
from perdure.learners.learning_job import LearningJob
from perdure.learners.loops.foreign_lessons import foreign_lessons
from perdure.learners.loops.nothing_to_learn import nothing_to_learn
from perdure.learners.options import ENVIRONMENT, TraceSftOptions
from perdure.learners.reward_source import rewarder
from perdure.memory.errors import InputError
from perdure.memory.trajectories.episodes import episodes_by_id
from perdure.memory.trajectories.traces import IMPORT, ForeignTrace, Trace, foreign_traces, job_traces, live_traces

STREAM = "stream"

AnyTrace = TypeVar("AnyTrace")


def trace_sft(job: LearningJob) -> None:
    """Imitate the newest successes.

    Raises `RuntimeFailure` if no trace of the targets is a success, `InputError` or `UnknownError` if no such traces exist.
    """
    own = job.options.of(TraceSftOptions)
    lessons, staleness = _imported(job, own) if own.traces.startswith(IMPORT) else _own(job, own)
    if not lessons:
        raise nothing_to_learn(
            job,
            f"no success among the traces of {own.traces}, at most {job.options.retention.staleness} updates behind; play first, give "
            "other traces, or allow a larger staleness",
        )
    imitation_epochs(job, lessons, own.epochs, data_staleness=staleness)


def _own(job: LearningJob, own: TraceSftOptions) -> tuple[list[Lesson], float | None]:
    """Successes of this home and their mean staleness; a resumed job gets the same ones."""
    store, kl, most_stale = job.run.store, job.options.loss.kl, job.options.retention.staleness
    names = [environment.name for environment in job.environments.targets]
    if job.progress.chosen:
        episodes = reversed(episodes_by_id(store, job.progress.chosen))
        return [lesson(episode, imitation=1.0, kl=kl) for episode in episodes], job.tally.updates[-1].data_staleness
    if own.traces == STREAM:
        traces = live_traces(store, names, most_stale)
    elif own.traces.isdecimal():
        traces = job_traces(store, int(own.traces), names, most_stale)
    else:
        raise InputError(f"traces={own.traces}: give stream, the number of a job, or import:LABEL")
    few = _few(_successes(job, traces), lambda trace: (trace.episode.environment, trace.episode.seed), own.per_task)
    chosen = list(islice(few, target_episodes(job)))
    job.progress.chosen = tuple(trace.episode.id for trace in chosen)
    staleness = statistics.fmean(trace.staleness for trace in chosen) if chosen else None
    return [lesson(trace.episode, imitation=1.0, kl=kl) for trace in chosen], staleness


def _imported(job: LearningJob, own: TraceSftOptions) -> tuple[list[Lesson], None]:
    """Successes of another pipeline, whose staleness is unknown; a resumed job gets the same ones."""
    rewards = job.options.common.rewards
    if rewards != ENVIRONMENT:
        raise InputError(f"rewards={rewards} applies to episodes of this home, not to imported ones: leave it out with traces=import")
    traces = foreign_traces(job.run.store, own.traces.removeprefix(IMPORT))
    if job.progress.chosen:
        known = frozenset(job.progress.chosen)
        return foreign_lessons(job, (trace for trace in traces if trace.id in known)), None
    won = (trace for trace in traces if _won(job, trace))
    few = _few(won, lambda trace: None if trace.seed is None else (trace.environment, trace.seed), own.per_task)
    chosen = list(islice(few, target_episodes(job)))
    job.progress.chosen = tuple(trace.id for trace in chosen)
    return foreign_lessons(job, chosen), None


def _successes(job: LearningJob, traces: Iterable[Trace]) -> Iterator[Trace]:
    """Successful traces, by the rewards that the job learns from."""
    judges = rewarder(job.run.store, job.options.common.rewards)
    for trace in traces:
        [episode] = judges([trace.episode])
        if episode.state == "completed" and episode.success:
            yield replace(trace, episode=episode)


def _few(traces: Iterable[AnyTrace], task_of: Callable[[AnyTrace], Hashable | None], most: int) -> Iterator[AnyTrace]:
    """At most `most` traces of each task; all of unknown tasks."""
    taken: Counter[Hashable] = Counter()
    for trace in traces:
        task = task_of(trace)
        taken[task] += 1
        if task is None or taken[task] <= most:
            yield trace


def _won(job: LearningJob, trace: ForeignTrace) -> bool:
    if trace.success is not None:
        return trace.success
    return trace.total_reward is not None and trace.total_reward >= job.environments.targets[0].threshold
