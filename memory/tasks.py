"""Tasks: what is to be attempted, and which process is attempting it.

A task is `queued` until an actor leases it, and then `leased`, `done` or `failed`. Tasks of persons go before those of the stream. When the
process that plays a task dies, its lease lapses and the next actor takes over; after `ATTEMPT_CAP` bad endings the task has failed, and
`error` says why.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from perdure.memory import environments, faults, leases
from perdure.memory.errors import InputError
from perdure.memory.leases import Clock
from perdure.memory.records import Lease, Task
from perdure.memory.replay.journal import abort_orphans
from perdure.memory.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSummary:
    """A task with the episodes that were played of it."""

    task: Task
    source: Literal["stream", "person"]
    stage: str | None
    """Of the stream that drew it; None for what a person asked for."""
    episodes: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """What listings print."""
        task = self.task
        return {
            "id": task.id,
            "environment": task.environment,
            "seed": task.seed,
            "state": task.state,
            "source": self.source,
            "stage": self.stage,
            "members": task.members,
            "attempt": task.attempt,
            "error": task.error,
            "episodes": list(self.episodes),
        }


def add_tasks(
    store: Store,
    environment: str,
    seeds: Sequence[int],
    members: int,
    source: Literal["stream", "person"],
    stage: str | None = None,
) -> list[int]:
    """Put tasks of a registered environment on the stream, each to be played by a group of `members` episodes. Gives their ids."""
    if members < 1:
        raise InputError(f"a task is played at least once, not {members} times")
    if any(seed < 0 for seed in seeds):
        raise InputError(f"a seed is not negative: {min(seeds)}")
    with store.write():
        environments.require(store, environment)
        sql = "INSERT INTO task (environment, seed, members, source, stage, created_at) VALUES (?, ?, ?, ?, ?, ?) RETURNING id"
        return [int(store.rows(sql, (environment, seed, members, source, stage, time.time()))[0]["id"]) for seed in seeds]


def lease_tasks(store: Store, owner: str, limit: int, ttl_s: float, clock: Clock) -> list[tuple[Task, Lease]]:
    """Claim up to `limit` queued tasks for `owner`: those of persons first, then in the order in which they came.

    Tasks whose lease has lapsed are taken back before, and what was being played of them is aborted.
    """
    with store.write():
        _take_back(store, clock)
        rows = store.rows(
            """
            UPDATE task SET state = 'leased', owner = ?, attempt = attempt + 1, lease_until = ?, boot_id = ?
            WHERE id IN (SELECT id FROM task WHERE state = 'queued' ORDER BY source = 'person' DESC, id LIMIT ?)
            RETURNING *
            """,
            (owner, clock.now_s() + ttl_s, clock.boot_id(), max(limit, 0)),
        )
        faults.point("mid-lease")
    faults.point("after-lease")
    rows.sort(key=lambda row: (row["source"] != "person", row["id"]))  # UPDATE ... RETURNING gives them in any order
    return [(_task(row), Lease(subject=row["id"], owner=owner, attempt=row["attempt"])) for row in rows]


def finish_task(store: Store, lease: Lease) -> None:
    """Its group has been played."""
    with store.write() as conn:
        leases.check(store, "task", lease)
        sql = "UPDATE task SET state = 'done', owner = NULL, error = NULL, finished_at = ? WHERE id = ?"
        conn.execute(sql, (time.time(), lease.subject))
        abort_orphans(store)


def release_task(store: Store, lease: Lease) -> None:
    """Give it back unfinished: an orderly stop, which counts as no attempt."""
    with store.write() as conn:
        leases.check(store, "task", lease)
        conn.execute("UPDATE task SET state = 'queued', owner = NULL WHERE id = ?", (lease.subject,))
        abort_orphans(store)


def fail_task(store: Store, lease: Lease, error: str) -> None:
    """It could not be played: it is queued again, or failed for good after `ATTEMPT_CAP` bad endings."""
    with store.write():
        leases.end_badly(store, "task", lease, error)
        abort_orphans(store)


def list_tasks(store: Store, limit: int = 50) -> list[TaskSummary]:
    """The newest tasks, the newest first."""
    rows = store.rows(
        """
        SELECT t.*, (SELECT group_concat(e.id) FROM episode e WHERE e.task = t.id) AS episodes
        FROM task t ORDER BY t.id DESC LIMIT ?
        """,
        (max(limit, 0),),
    )
    return [
        TaskSummary(
            task=_task(row),
            source=row["source"],
            stage=row["stage"],
            episodes=tuple(sorted(int(number) for number in (row["episodes"] or "").split(",") if number)),
        )
        for row in rows
    ]


def counts(store: Store) -> dict[str, int]:
    """How many tasks are queued, running, done and failed."""
    found = {row["state"]: int(row["n"]) for row in store.rows("SELECT state, count(*) AS n FROM task GROUP BY state")}
    return {
        "queued": found.get("queued", 0),
        "running": found.get("leased", 0),
        "done": found.get("done", 0),
        "failed": found.get("failed", 0),
    }


def anything_to_play(store: Store) -> bool:
    """Is a task queued, or leased by somebody who may be dead?"""
    return bool(store.rows("SELECT 1 FROM task WHERE state IN ('queued', 'leased') LIMIT 1"))


def queued(store: Store) -> int:
    """How many tasks wait to be played."""
    return int(store.rows("SELECT count(*) AS n FROM task WHERE state = 'queued'")[0]["n"])


def leases_of(store: Store, owner: str) -> list[Lease]:
    """What `owner` has leased."""
    rows = store.rows(f"SELECT id, attempt FROM task WHERE owner = ? AND {leases.HELD['task']}", (owner,))
    return [Lease(subject=row["id"], owner=owner, attempt=row["attempt"]) for row in rows]


def _take_back(store: Store, clock: Clock) -> None:
    """Queue the tasks whose lease has lapsed, or fail them where that happened too often."""
    with store.write():
        if leases.take_back(store, "task", clock, "the process that played it ended without a word"):
            abort_orphans(store)


def _task(row: Any) -> Task:
    return Task(
        id=row["id"],
        environment=row["environment"],
        seed=row["seed"],
        state=row["state"],
        members=row["members"],
        attempt=row["attempt"],
        error=row["error"],
    )
