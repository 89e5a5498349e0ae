"""Whether it learns: live reward and success over time, by environment and version, with the moves of the serving version and the updates
of learning jobs.

The unit is the task: the episodes of one task have one seed, and are not independent. So the intervals are over the means of tasks. Left
out: held-out scores (`retention_matrix.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import fsum, sqrt

from perdure.agent.metrics.seed_intervals import student_quantile, varies
from perdure.agent.show.short_names import short_names
from perdure.learners.gate.intervals import interval_of_mean
from perdure.memory import jobs as job_store
from perdure.memory.contracts.json_form import update_document
from perdure.memory.environments import list_environments, require
from perdure.memory.json_value import Document, iso_utc
from perdure.memory.store import Store
from perdure.memory.versions import get_version, moves

LEVEL = 0.95
FREEDOMS = (*range(1, 11), 12, 15, 20, 30, 60, 120, 1000)
"""The degrees of freedom for which Student's quantile is computed, which is slow: between two of them the smaller one counts."""


@dataclass(slots=True)
class _Bin:
    """The tasks of one version in one environment that began in one stretch of time."""

    episodes: int = 0
    successes: int = 0
    success_of_tasks: list[float] = field(default_factory=list)
    reward_of_tasks: list[float] = field(default_factory=list)


def learning_document(
    store: Store,
    *,
    environment: str | None = None,
    version: str | None = None,
    since: float | None = None,
    until: float | None = None,
    bins: int = 48,
    jobs: int = 20,
    before: int | None = None,
) -> Document:
    """Live episodes in `bins` stretches of time from `since` to `until` (Unix seconds), and the updates of the newest `jobs` learning jobs.

    `before`: of jobs with a lower number. Raises `UnknownError` for an environment or a version that the home does not have.
    """
    if environment is not None:
        require(store, environment)
    if version is not None:
        get_version(store, version)
    start, end = _span(store, since, until)
    width = max((end - start) / bins, 1e-3)
    known = {row.name: row for row in list_environments(store)}
    short = short_names(list(known))
    found = _binned(store, environment, version, start, end, width)
    return {
        "from": iso_utc(start),
        "to": iso_utc(end),
        "start": start,
        "bin_s": width,
        "environments": [
            {
                "environment": name,
                "short": short[name],
                "retired": known[name].retired is not None,
                "points": [_point(key, found[name][key], start, width) for key in sorted(found[name])],
            }
            for name in known
            if name in found
        ],
        "moves": [{"at": move.moved, **move.as_json()} for move in moves(store) if start <= move.moved <= end],
        "jobs": _jobs(store, environment, jobs, before),
    }


def _span(store: Store, since: float | None, until: float | None) -> tuple[float, float]:
    """From the first live episode to now, unless it was said."""
    end = time.time() if until is None else until
    if since is not None:
        return min(since, end), end
    [row] = store.rows(
        """
        SELECT min(
            (SELECT min(e.started_at) FROM episode e WHERE e.version = v.name AND e.purpose = 'live' AND e.state = 'completed')
        ) AS at FROM version v
        """
    )
    return (end if row["at"] is None else min(row["at"], end)), end


def _binned(
    store: Store, environment: str | None, version: str | None, start: float, end: float, width: float
) -> dict[str, dict[tuple[int, str], _Bin]]:
    """By environment, and by bin and version. A task belongs to the bin in which its first episode began."""
    conditions = "".join(f" AND e.{column} = :{column}" for column, value in (("version", version), ("environment", environment)) if value)
    rows = store.rows(
        f"""
        SELECT min(e.environment) AS environment, e.version, CAST((min(e.started_at) - :start) / :width AS INTEGER) AS bin,
               count(*) AS episodes, sum(e.success) AS successes, avg(e.total_reward) AS reward
        FROM version v CROSS JOIN episode e ON e.version = v.name
        WHERE e.purpose = 'live' AND e.state = 'completed' AND e.seat = 0 AND e.started_at BETWEEN :start AND :end {conditions}
        GROUP BY e.version, e.task
        """,
        {"start": start, "end": end, "width": width, "version": version, "environment": environment},
    )
    found: dict[str, dict[tuple[int, str], _Bin]] = {}
    for row in rows:
        place = found.setdefault(row["environment"], {}).setdefault((row["bin"], row["version"]), _Bin())
        place.episodes += row["episodes"]
        place.successes += row["successes"]
        place.success_of_tasks.append(row["successes"] / row["episodes"])
        place.reward_of_tasks.append(row["reward"])
    return found


def _point(key: tuple[int, str], played: _Bin, start: float, width: float) -> Document:
    number, version = key
    tasks = len(played.success_of_tasks)
    success, reward = fsum(played.success_of_tasks) / tasks, fsum(played.reward_of_tasks) / tasks
    low, high = interval_of_mean(success, tasks, LEVEL)
    reward_low, reward_high = _t_interval(played.reward_of_tasks, reward)
    return {
        "bin": number,
        "at": start + (number + 0.5) * width,
        "version": version,
        "tasks": tasks,
        "episodes": played.episodes,
        "successes": played.successes,
        "success": success,
        "success_low": low,
        "success_high": high,
        "reward": reward,
        "reward_low": reward_low,
        "reward_high": reward_high,
    }


def _t_interval(values: Sequence[float], mean: float) -> tuple[float | None, float | None]:
    """Student's interval of a mean; None of values that do not differ."""
    if not varies(values):
        return None, None
    freedom = max(known for known in FREEDOMS if known < len(values))
    variance = fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = student_quantile((1 + LEVEL) / 2, freedom) * sqrt(variance / len(values))
    return mean - half, mean + half


def _jobs(store: Store, environment: str | None, limit: int, before: int | None) -> list[Document]:
    found = job_store.learning_jobs(store, limit, before=before, target=environment)
    return [
        {
            "job": job.id,
            "learner": job.learner,
            "targets": list(job.targets),
            "state": job.state,
            "candidate": job.candidate,
            "verdict": job.verdict,
            "created": iso_utc(job.created),
            "updates": [
                {"at": step.made, "made": iso_utc(step.made), **update_document(step.update)} for step in job_store.steps(store, job.id)
            ],
        }
        for job in found
    ]
