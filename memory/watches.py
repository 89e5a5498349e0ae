"""The watch on live play: what was expected of the serving version, and what its finished tasks have shown since.

Rows are of the serving version only. Tasks are read in the order of their numbers, each once, and only up to the first that is unfinished,
so that a task which takes long is not passed over and no order depends on the clock. Left out: the detectors
(`agent/watching/e_detector.py`), and what an alarm leads to (`agent/watching/conclusion.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from perdure.memory.json_value import to_json
from perdure.memory.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSums:
    """Sums over the mean scores of tasks, each in [0, 1]."""

    tasks: int = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float | None:
        """None without tasks."""
        return self.total / self.tasks if self.tasks else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentWatch:
    """The watch on one environment."""

    version: str
    environment: str
    temperature: float
    """At which the scores that are expected were sampled."""
    low: float
    high: float
    """Between these the mean score of live tasks is expected."""
    seen: ScoreSums = ScoreSums()
    fell: float = 0.0
    rose: float = 0.0
    """Evidence of the two detectors."""
    last_task: int
    """All tasks up to this one have been looked at."""
    alarm_job: int | None = None
    """The job of the confirming gate; None if no alarm waits for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedTask:
    """A live task of the stream that one version has played to its end."""

    id: int
    environment: str
    version: str
    temperature: float
    score: float
    """The mean over its completed episodes."""


def watches(store: Store, version: str) -> list[EnvironmentWatch]:
    """The watches on a version, by environment."""
    return [_watch(row) for row in store.rows("SELECT * FROM watch WHERE version = ? ORDER BY environment", (version,))]


def watches_of_job(store: Store, job: int) -> list[EnvironmentWatch]:
    """The watches whose alarm this job is to confirm."""
    return [_watch(row) for row in store.rows("SELECT * FROM watch WHERE alarm_job = ? ORDER BY environment", (job,))]


def write_watch(store: Store, watch: EnvironmentWatch) -> None:
    """Write a watch, in place of the one on the same version and environment."""
    with store.write() as conn:
        conn.execute(
            """
            INSERT OR REPLACE INTO watch
                (version, environment, temperature, low, high, tasks, total, squares, fell, rose, last_task, alarm_job)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            (
                watch.version,
                watch.environment,
                watch.temperature,
                watch.low,
                watch.high,
                watch.seen.tasks,
                watch.seen.total,
                watch.seen.squares,
                watch.fell,
                watch.rose,
                watch.last_task,
                watch.alarm_job,
            ),
        )


def keep_watches(store: Store, version: str, environments: Collection[str]) -> None:
    """Delete the watches on other versions, and on environments of this version that are not named."""
    with store.write() as conn:
        sql = "DELETE FROM watch WHERE version <> ? OR environment NOT IN (SELECT value FROM json_each(?))"
        conn.execute(sql, (version, to_json(list(environments))))


def finished_before(store: Store) -> int:
    """All tasks of the stream with numbers below this have ended."""
    sql = "SELECT min(id) AS id FROM task WHERE state IN ('queued', 'leased') AND source = 'stream'"
    unfinished: int | None = store.rows(sql)[0]["id"]
    return unfinished if unfinished is not None else int(store.rows("SELECT coalesce(max(id), 0) AS id FROM task")[0]["id"]) + 1


def tasks_done(store: Store, after: int, before: int, limit: int) -> list[int]:
    """Numbers of the stream's tasks that are done, between these two, the lowest first. Tasks of persons are not drawn at random."""
    rows = store.rows(
        "SELECT id FROM task WHERE state = 'done' AND source = 'stream' AND id > ? AND id < ? ORDER BY id LIMIT ?", (after, before, limit)
    )
    return [row["id"] for row in rows]


def played_tasks(store: Store, tasks: Sequence[int]) -> list[PlayedTask]:
    """These tasks with their mean scores, in order. Left out are those that several versions played, and those that no episode scored."""
    rows = store.rows(
        """
        SELECT task, min(environment) AS environment, min(version) AS version, min(temperature) AS temperature, avg(score) AS score
        FROM episode WHERE task IN (SELECT value FROM json_each(?)) AND purpose = 'live' AND state = 'completed' AND seat = 0
        GROUP BY task HAVING min(version) = max(version) AND min(temperature) = max(temperature) ORDER BY task
        """,
        (to_json(list(tasks)),),
    )
    return [
        PlayedTask(
            id=row["task"],
            environment=row["environment"],
            version=row["version"],
            temperature=row["temperature"],
            score=min(1.0, row["score"]),
        )
        for row in rows
    ]


def gated_scores(store: Store, version: str, environment: str, temperature: float, before: int | None = None) -> list[float]:
    """All scores of a version in an environment in closed gates that sampled at this temperature, on either side, in the order played.

    Those from before the environment changed are left out; `before`: also those of this gate and later ones.
    """
    rows = store.rows(
        """
        WITH closed AS MATERIALIZED (
            SELECT id, candidate FROM gate
            WHERE verdict IS NOT NULL AND id < coalesce(:before, 9223372036854775807)
              AND id >= coalesce((SELECT first_gate FROM environment WHERE name = :environment), 0)
              AND coalesce(json_extract(evidence, '$.temperature'), 0.0) = :temperature
        ), scored AS (
            SELECT p.gate, p.draw, p.seed, p.candidate_score AS score
            FROM closed c CROSS JOIN pair p ON p.gate = c.id AND p.environment = :environment
            WHERE c.candidate = :version AND p.reference <> :version
            UNION ALL
            SELECT p.gate, p.draw, p.seed, p.reference_score
            FROM pair p JOIN closed c ON c.id = p.gate
            WHERE p.environment = :environment AND p.role IN ('earlier', 'trained') AND p.reference = :version
        )
        SELECT min(score) AS score FROM scored WHERE score IS NOT NULL GROUP BY gate, seed ORDER BY gate, min(draw)
        """,
        {"version": version, "environment": environment, "temperature": temperature, "before": before},
    )
    return [row["score"] for row in rows]


def gate_temperatures(store: Store, version: str) -> list[float]:
    """The temperatures at which closed gates have scored a version, each once."""
    rows = store.rows(
        """
        SELECT DISTINCT coalesce(json_extract(g.evidence, '$.temperature'), 0.0) AS temperature FROM gate g
        WHERE g.verdict IS NOT NULL AND ? IN (g.candidate, g.serving) ORDER BY temperature
        """,
        (version,),
    )
    return [row["temperature"] for row in rows]


def last_closed_gate(store: Store) -> int:
    """The highest number of a gate that has a verdict; 0 if none has."""
    return int(store.rows("SELECT coalesce(max(id), 0) AS id FROM gate WHERE verdict IS NOT NULL")[0]["id"])


def live_temperature(store: Store, version: str) -> float | None:
    """The temperature of the newest live episode of a version; None if it has none."""
    sql = "SELECT temperature FROM episode WHERE version = ? AND purpose = 'live' AND state = 'completed' ORDER BY started_at DESC LIMIT 1"
    rows = store.rows(sql, (version,))
    return rows[0]["temperature"] if rows else None


def _watch(row: Any) -> EnvironmentWatch:
    return EnvironmentWatch(
        version=row["version"],
        environment=row["environment"],
        temperature=row["temperature"],
        low=row["low"],
        high=row["high"],
        seen=ScoreSums(tasks=row["tasks"], total=row["total"], squares=row["squares"]),
        fell=row["fell"],
        rose=row["rose"],
        last_task=row["last_task"],
        alarm_job=row["alarm_job"],
    )
