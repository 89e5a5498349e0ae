"""Tasks: what is to be attempted, and which process is attempting it.

A task is `queued` until an actor leases it, and then `leased`, `done` or `failed`. Tasks of persons go before those of the stream. When the
process that plays a task dies, its lease lapses and the next actor takes over; after `ATTEMPT_CAP` bad endings the task has failed, and
`error` says why.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from perdure.memory import environments, faults, leases
from perdure.memory.errors import InputError, UnknownError
from perdure.memory.json_value import Document, iso_utc, record_json
from perdure.memory.leases import Clock
from perdure.memory.records import Lease, Task, TaskState
from perdure.memory.store import Store
from perdure.memory.trajectories.journal import abort_orphans


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSummary:
    """A task with its episodes."""

    task: Task
    source: Literal["stream", "person"]
    stage: str | None
    """The stage that drew it; None if a person asked for it."""
    episodes: tuple[int, ...]
    created: float

    def as_json(self) -> Document:
        """The listing's keys."""
        more = {"source": self.source, "stage": self.stage, "episodes": list(self.episodes), "created": iso_utc(self.created)}
        return {**record_json(self.task), **more}


def add_tasks(
    store: Store,
    environment: str,
    seeds: Sequence[int],
    members: int,
    source: Literal["stream", "person"],
    stage: str | None = None,
) -> list[int]:
    """Queue tasks of a registered environment, each played by a group of `members` episodes. Returns their ids."""
    if members < 1:
        raise InputError(f"a task is played at least once, not {members} times")
    if any(seed < 0 for seed in seeds):
        raise InputError(f"a seed cannot be negative: {min(seeds)}")
    with store.write():
        environments.require_in_use(store, environment)
        sql = "INSERT INTO task (environment, seed, members, source, stage, created_at) VALUES (?, ?, ?, ?, ?, ?) RETURNING id"
        return [int(store.rows(sql, (environment, seed, members, source, stage, time.time()))[0]["id"]) for seed in seeds]


def lease_tasks(store: Store, owner: str, limit: int, ttl_s: float, clock: Clock) -> list[tuple[Task, Lease]]:
    """Lease up to `limit` queued tasks to `owner`: those of persons first, then the oldest.

    Before that, tasks whose lease has lapsed are queued again and their running episodes aborted.
    """
    with store.write():
        requeue_lapsed(store, clock)
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
    """Mark a task as done: its group has been played."""
    with store.write() as conn:
        leases.check(store, "task", lease)
        sql = "UPDATE task SET state = 'done', owner = NULL, error = NULL, finished_at = ? WHERE id = ?"
        conn.execute(sql, (time.time(), lease.subject))
        abort_orphans(store)


def release_task(store: Store, lease: Lease) -> None:
    """Queue an unfinished task again after an orderly stop, which does not count as a failure."""
    with store.write() as conn:
        leases.check(store, "task", lease)
        conn.execute("UPDATE task SET state = 'queued', owner = NULL WHERE id = ?", (lease.subject,))
        abort_orphans(store)


def retry_task(store: Store, lease: Lease, error: str) -> None:
    """Queue a task that could not be played again, or fail it for good after `ATTEMPT_CAP` failures."""
    with store.write():
        leases.fail_attempt(store, "task", lease, error)
        abort_orphans(store)


def list_tasks(store: Store, limit: int = 50, *, before: int | None = None, state: TaskState | None = None) -> list[TaskSummary]:
    """The newest tasks, the newest first; only those with a lower number than `before`, and in a state, if given."""
    return _summaries(
        store,
        f"""
        WHERE t.id < coalesce(:before, 9223372036854775807){" AND t.state = :state" if state else ""}
        ORDER BY t.id DESC LIMIT :limit
        """,
        {"limit": max(limit, 0), "before": before, "state": state},
    )


def get_task(store: Store, task: int) -> TaskSummary:
    """One task with its episodes. Raises `UnknownError`."""
    found = _summaries(store, "WHERE t.id = :task", {"task": task})
    if not found:
        raise UnknownError(f"no task {task}; `perdure task list` shows them")
    return found[0]


def next_tasks(store: Store, limit: int) -> list[TaskSummary]:
    """The queued tasks that are played next, in that order: those of persons first, then the oldest."""
    sql = "WHERE t.state = 'queued' ORDER BY t.source = 'person' DESC, t.id LIMIT :limit"
    return _summaries(store, sql, {"limit": max(limit, 0)})


def counts(store: Store) -> dict[str, int]:
    """How many tasks are queued, running, done and failed."""
    by_state = {row["state"]: int(row["n"]) for row in store.rows("SELECT state, count(*) AS n FROM task GROUP BY state")}
    return {
        "queued": by_state.get("queued", 0),
        "running": by_state.get("leased", 0),
        "done": by_state.get("done", 0),
        "failed": by_state.get("failed", 0),
    }


def anything_to_play(store: Store) -> bool:
    """Whether a task is queued, or leased by a process that may be dead."""
    return bool(store.rows("SELECT 1 FROM task WHERE state IN ('queued', 'leased') LIMIT 1"))


def queued(store: Store) -> int:
    """How many tasks are queued."""
    return int(store.rows("SELECT count(*) AS n FROM task WHERE state = 'queued'")[0]["n"])


def leases_of(store: Store, owner: str) -> list[Lease]:
    """The leases of `owner` on tasks."""
    rows = store.rows(f"SELECT id, attempt FROM task WHERE owner = ? AND {leases.HELD['task']}", (owner,))
    return [Lease(subject=row["id"], owner=owner, attempt=row["attempt"]) for row in rows]


def requeue_lapsed(store: Store, clock: Clock) -> None:
    """Queue the tasks whose lease has lapsed again, or fail those that have failed too often."""
    with store.write():
        if leases.requeue_lapsed(store, "task", clock, "the process that played it died"):
            abort_orphans(store)


def _summaries(store: Store, which: str, parameters: Mapping[str, Any]) -> list[TaskSummary]:
    """The tasks that the end of a query on `task t` says."""
    sql = f"SELECT t.*, (SELECT group_concat(e.id) FROM episode e WHERE e.task = t.id) AS episodes FROM task t {which}"
    return [
        TaskSummary(
            task=_task(row),
            source=row["source"],
            stage=row["stage"],
            episodes=tuple(sorted(int(number) for number in (row["episodes"] or "").split(",") if number)),
            created=row["created_at"],
        )
        for row in store.rows(sql, parameters)
    ]


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
