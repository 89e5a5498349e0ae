"""The work that has ended since the last look: episodes, jobs, their updates and gates, with the ids that tie them together.

It is read from the store, so that neither play nor learning knows of it. Each piece is told once; what ended while nobody looked is not.
Left out: what is made of it, lines of a log (`json_report.py`) or spans (`spans.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from perdure.memory.jobs import ENDED
from perdure.memory.json_value import to_json
from perdure.memory.store import Store

MOST_AT_ONCE = 2000
"""New episodes of one look. If there are more, the older ones of them are passed over."""
MOST_OPEN = 5000
"""Episodes that are waited for."""

Kind = Literal["episode", "job", "update", "gate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One piece of work that has ended."""

    kind: Kind
    ids: Mapping[str, int | str]
    """Its own id under the name of its kind, and those of what it belongs to: job, task, version, environment."""
    began: float
    ended: float
    outcome: str
    """How it ended: a state, or a verdict."""
    error: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What it came to."""

    def __str__(self) -> str:
        return f"{self.kind} {self.ids[self.kind]} ended: {self.outcome}" + (f", {self.error}" if self.error else "")


class EndedWork:
    """A look at one store again and again. Belongs to the thread that opened the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._episodes = {row["id"] for row in store.rows("SELECT id FROM episode WHERE state = 'running'")}
        self._last_episode = _last(store, "episode")
        self._jobs = {row["id"] for row in store.rows("SELECT id FROM job WHERE state NOT IN ('done', 'failed')")}
        self._last_job = _last(store, "job")
        self._gates = {row["id"] for row in store.rows("SELECT id FROM gate WHERE verdict IS NULL")}
        self._last_gate = _last(store, "gate")
        self._steps = {job: self._last_step(job) for job in self._jobs}
        """The last update of each job that has been told, as attempt and number."""

    def look(self) -> list[Piece]:
        """What has ended, each piece after the pieces that belong to it."""
        with self._store.read():
            return [*self._ended_episodes(), *self._made_updates(), *self._closed_gates(), *self._ended_jobs()]

    def _ended_episodes(self) -> list[Piece]:
        last = _last(self._store, "episode")
        begun = max(self._last_episode, last - MOST_AT_ONCE)
        self._episodes |= {row["id"] for row in self._store.rows("SELECT id FROM episode WHERE id > ?", (begun,))}
        self._last_episode = last
        rows = self._store.rows(
            """
            SELECT id, environment, purpose, task, job, version, step_job, step_n, state, turns, total_reward, success, stop_reason, error,
                   started_at, finished_at
            FROM episode WHERE id IN (SELECT value FROM json_each(?)) AND state <> 'running' ORDER BY id
            """,
            (to_json(sorted(self._episodes)),),
        )
        self._episodes -= {row["id"] for row in rows}
        self._episodes = set(sorted(self._episodes)[-MOST_OPEN:])
        return [_episode(row) for row in rows]

    def _made_updates(self) -> list[Piece]:
        last = _last(self._store, "job")
        new = {row["id"] for row in self._store.rows("SELECT id FROM job WHERE id > ?", (self._last_job,))}
        self._jobs |= new
        self._last_job = last
        found = []
        for job in sorted(self._jobs):
            told = self._steps.get(job, (0, 0))
            rows = self._store.rows("SELECT * FROM step WHERE job = ? AND (attempt, n) > (?, ?) ORDER BY attempt, n", (job, *told))
            for row in rows:
                found.append(_update(row))
                self._steps[job] = row["attempt"], row["n"]
        return found

    def _closed_gates(self) -> list[Piece]:
        self._gates |= {row["id"] for row in self._store.rows("SELECT id FROM gate WHERE id > ?", (self._last_gate,))}
        self._last_gate = _last(self._store, "gate")
        rows = self._store.rows(
            """
            SELECT id, job, candidate, verdict, reason, started_at, finished_at FROM gate
            WHERE id IN (SELECT value FROM json_each(?)) AND verdict IS NOT NULL ORDER BY id
            """,
            (to_json(sorted(self._gates)),),
        )
        self._gates -= {row["id"] for row in rows}
        return [
            Piece(
                kind="gate",
                ids={"gate": row["id"], "job": row["job"], "version": row["candidate"]},
                began=row["started_at"],
                ended=row["finished_at"] or row["started_at"],
                outcome=row["verdict"],
            )
            for row in rows
        ]

    def _ended_jobs(self) -> list[Piece]:
        rows = self._store.rows(
            """
            SELECT id, kind, learner, candidate, state, error, created_at, started_at, finished_at FROM job
            WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id
            """,
            (to_json(sorted(self._jobs)),),
        )
        ended = [row for row in rows if row["state"] in ENDED]
        self._jobs -= {row["id"] for row in ended}
        for row in ended:
            self._steps.pop(row["id"], None)
        return [_job(row) for row in ended]

    def _last_step(self, job: int) -> tuple[int, int]:
        rows = self._store.rows("SELECT attempt, n FROM step WHERE job = ? ORDER BY attempt DESC, n DESC LIMIT 1", (job,))
        return (rows[0]["attempt"], rows[0]["n"]) if rows else (0, 0)


def _last(store: Store, table: Literal["episode", "job", "gate"]) -> int:
    return int(store.rows(f"SELECT coalesce(max(id), 0) AS id FROM {table}")[0]["id"])


def _episode(row: Any) -> Piece:
    ids = {"episode": row["id"], "task": row["task"], "job": row["job"] or row["step_job"], "version": row["version"]}
    return Piece(
        kind="episode",
        ids={**{name: value for name, value in ids.items() if value is not None}, "environment": row["environment"]},
        began=row["started_at"],
        ended=row["finished_at"] or row["started_at"],
        outcome=row["state"],
        error=row["error"],
        numbers={"turns": row["turns"], "reward": row["total_reward"], "success": row["success"]},
    )


def _update(row: Any) -> Piece:
    try:
        told = json.loads(row["diagnostics"])
        seconds = float(told.get("sampling_s") or 0.0) + float(told.get("learning_s") or 0.0)
        numbers = {
            name: float(told[name]) for name in ("reward", "success", "tokens", "sampled_tokens") if isinstance(told.get(name), int | float)
        }
    except (ValueError, TypeError, AttributeError):  # a damaged row: `perdure store check` tells of it
        seconds, numbers = 0.0, {}
    return Piece(
        kind="update",
        ids={"update": row["n"], "job": row["job"]},
        began=row["made_at"] - seconds,
        ended=row["made_at"],
        outcome="made",
        numbers=numbers,
    )


def _job(row: Any) -> Piece:
    ids = {"job": row["id"], "version": row["candidate"]}
    began = row["started_at"] or row["created_at"]
    return Piece(
        kind="job",
        ids={name: value for name, value in ids.items() if value is not None},
        began=began,
        ended=row["finished_at"] or began,
        outcome=row["state"],
        error=row["error"],
    )
