"""Jobs: one run of a learner or of a set of probes, by exactly one process at a time.

A job is `queued`, then `leased`, `running` and perhaps `gating`, then `done` or `failed`. Adding a job under a key that exists returns the
job of that key. If its process dies, the job is taken over with a higher attempt; after `ATTEMPT_CAP` deaths it has failed, and `error`
says why. Left out: which deaths fail a job at once (`agent/processes/exit_codes.py`, `agent/supervision/keepers.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from perdure.memory import leases
from perdure.memory.contracts.json_form import (
    order_document,
    read_order,
    read_result,
    read_update,
    result_document,
    update_document,
)
from perdure.memory.contracts.orders import CANCELLED, Job, JobState, Order, kind_of, learner_of
from perdure.memory.contracts.results import Result, Update
from perdure.memory.errors import Conflict, UnknownError
from perdure.memory.json_value import Document, iso_utc, to_json
from perdure.memory.leases import HELD, Clock
from perdure.memory.processes import record_event
from perdure.memory.records import Lease
from perdure.memory.store import Store, reading_row
from perdure.memory.trajectories.journal import abort_orphans

ENDED = ("done", "failed")
"""The states that a job does not leave."""
BELOW = "id < coalesce(:before, 9223372036854775807)"
"""Of a page of a listing: what comes after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One update inside a learning job."""

    job: int
    attempt: int
    update: Update
    made: float

    @property
    def n(self) -> int:
        return self.update.update


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTimes:
    """When a job was first begun and when it ended, in Unix seconds; None if that has not come."""

    started: float | None
    finished: float | None


def as_json(job: Job) -> Document:
    """The listing's keys."""
    return {
        "id": job.id,
        "kind": job.kind,
        "learner": job.learner,
        "targets": list(job.targets),
        "options": order_document(job.order),
        "state": job.state,
        "attempt": job.attempt,
        "candidate": job.candidate,
        "result": None if job.result is None else result_document(job.result),
        "error": job.error,
        "created": iso_utc(job.created),
    }


def add_job(store: Store, key: str, targets: Sequence[str], order: Order) -> int:
    """Queue a job and return its id; if `key` exists, the id of the job that has it."""
    with store.write() as conn:
        conn.execute(
            """
            INSERT INTO job (key, kind, learner, targets, options, created_at) VALUES (?, ?, ?, ?, ?, ?)
            ON CONFLICT (key) DO NOTHING
            """,
            (key, kind_of(order), learner_of(order), to_json(list(targets)), to_json(order_document(order)), time.time()),
        )
        return int(store.rows("SELECT id FROM job WHERE key = ?", (key,))[0]["id"])


def lease_job(store: Store, owner: str, ttl_s: float, clock: Clock, job: int | None = None) -> tuple[Job, Lease] | None:
    """Lease the oldest queued job, or `job` if given. None if there is none.

    Before that, jobs whose lease has lapsed are queued again and their running episodes aborted.
    """
    with store.write():
        _requeue_lapsed(store, clock)
        rows = store.rows(
            """
            UPDATE job SET state = 'leased', owner = ?, attempt = attempt + 1, lease_until = ?, boot_id = ?,
                           started_at = coalesce(started_at, ?)
            WHERE id = (SELECT id FROM job WHERE state = 'queued' AND (? IS NULL OR id = ?) ORDER BY id LIMIT 1)
            RETURNING *
            """,
            (owner, clock.now_s() + ttl_s, clock.boot_id(), time.time(), job, job),
        )
    if not rows:
        return None
    return _job(rows[0]), Lease(subject=rows[0]["id"], owner=owner, attempt=rows[0]["attempt"])


def renew_job(store: Store, lease: Lease, ttl_s: float, clock: Clock) -> None:
    """Renew the lease, or raise `LeaseLost`."""
    leases.renew(store, "job", lease, ttl_s, clock)


def set_job_state(store: Store, lease: Lease, state: Literal["running", "gating"]) -> None:
    """Write what the job is doing now."""
    with store.write() as conn:
        leases.check(store, "job", lease)
        conn.execute("UPDATE job SET state = ? WHERE id = ?", (state, lease.subject))


def finish_job(store: Store, lease: Lease, result: Result, candidate: str | None) -> None:
    """Mark a job as done; `result` says whether it led to a promotion."""
    with store.write() as conn:
        leases.check(store, "job", lease)
        conn.execute(
            "UPDATE job SET state = 'done', owner = NULL, result = ?, candidate = ?, error = NULL, finished_at = ? WHERE id = ?",
            (to_json(result_document(result)), candidate, time.time(), lease.subject),
        )
        abort_orphans(store)


def release_job(store: Store, lease: Lease) -> None:
    """Queue an unfinished job again after an orderly stop."""
    with store.write() as conn:
        leases.check(store, "job", lease)
        conn.execute("UPDATE job SET state = 'queued', owner = NULL WHERE id = ?", (lease.subject,))
        abort_orphans(store)


def fail_job(store: Store, lease: Lease, error: str) -> None:
    """Fail a job for good."""
    with store.write() as conn:
        leases.check(store, "job", lease)
        sql = "UPDATE job SET state = 'failed', owner = NULL, error = ?, finished_at = ? WHERE id = ?"
        conn.execute(sql, (error, time.time(), lease.subject))
        abort_orphans(store)


def cancel_job(store: Store, job: int, reason: str) -> Job:
    """Fail a job that has not ended, because a person takes it back; a process that works on it loses its lease and writes nothing more.

    Raises `UnknownError`, and `Conflict` if it has ended.
    """
    with store.write() as conn:
        found = get_job(store, job)
        if found.state in ENDED:
            raise Conflict(f"job {job} is {found.state} already: nothing was changed")
        sql = "UPDATE job SET state = 'failed', owner = NULL, error = ?, finished_at = ? WHERE id = ?"
        conn.execute(sql, (CANCELLED + reason, time.time(), job))
        record_event(store, "cancelled", f"job {job}", reason)
        abort_orphans(store)
        return get_job(store, job)


def requeue_failed(store: Store, job: int) -> None:
    """Queue a failed job again, with all its attempts before it. Nothing if it has not failed."""
    sql = "UPDATE job SET state = 'queued', spent = 0, error = NULL, finished_at = NULL WHERE id = ? AND state = 'failed'"
    with store.write() as conn:
        conn.execute(sql, (job,))


def release_all(store: Store) -> None:
    """Queue again what processes had leased that have all ended, as after an orderly stop, so that no attempt counts as spent.

    It ends all other leases. Only for the holder of the home's lock, when it starts, and only if its processes end by Ctrl-C as a rule:
    then the death of one is no sign that its work is at fault.
    """
    with store.write() as conn:
        for kind in ("task", "job"):
            conn.execute(f"UPDATE {kind} SET state = 'queued', owner = NULL WHERE {HELD[kind]}")
        leases.end_all_leases(store)
        abort_orphans(store)


def retry_job(store: Store, lease: Lease, error: str) -> None:
    """Queue a job again whose process ended for an outside reason, or fail it for good after `ATTEMPT_CAP` failures."""
    with store.write():
        leases.fail_attempt(store, "job", lease, error)
        abort_orphans(store)


def get_job(store: Store, job: int) -> Job:
    """Raises `UnknownError`."""
    rows = store.rows("SELECT * FROM job WHERE id = ?", (job,))
    if not rows:
        raise UnknownError(f"no job {job}; `perdure job list` shows them")
    return _job(rows[0])


def list_jobs(store: Store, limit: int = 50, *, before: int | None = None, state: JobState | None = None) -> list[Job]:
    """The newest jobs, newest first; only those with a lower number than `before`, and in a state, if given."""
    parameters = {"limit": max(limit, 0), "before": before, "state": state}
    sql = f"SELECT * FROM job WHERE {BELOW}{' AND state = :state' if state else ''} ORDER BY id DESC LIMIT :limit"
    return [_job(row) for row in store.rows(sql, parameters)]


def learning_jobs(store: Store, limit: int, *, before: int | None = None, target: str | None = None) -> list[Job]:
    """The newest learning jobs, newest first; only those with a lower number than `before`, and with a target, if given."""
    parameters = {"limit": max(limit, 0), "before": before, "target": target}
    aimed = " AND EXISTS (SELECT 1 FROM json_each(targets) WHERE value = :target)" if target is not None else ""
    sql = f"SELECT * FROM job WHERE kind = 'learn' AND {BELOW}{aimed} ORDER BY id DESC LIMIT :limit"
    return [_job(row) for row in store.rows(sql, parameters)]


def unfinished_jobs(store: Store) -> list[Job]:
    """Jobs that are queued or leased, oldest first."""
    return [_job(row) for row in store.rows(f"SELECT * FROM job WHERE state = 'queued' OR {HELD['job']} ORDER BY id")]


def jobs_at_work(store: Store, clock: Clock) -> list[Job]:
    """Jobs that a process works on, because their lease has not lapsed, oldest first."""
    condition, parameters = leases.lapsed(clock)
    return [_job(row) for row in store.rows(f"SELECT * FROM job WHERE {HELD['job']} AND NOT {condition} ORDER BY id", parameters)]


def jobs_after(store: Store, job: int) -> list[Job]:
    """The jobs with a higher number, oldest first."""
    return [_job(row) for row in store.rows("SELECT * FROM job WHERE id > ? ORDER BY id", (job,))]


def last_ended(store: Store) -> int:
    """The highest number of a job that has ended; 0 if none has."""
    return int(store.rows("SELECT coalesce(max(id), 0) AS id FROM job WHERE state IN ('done', 'failed')")[0]["id"])


def lease_of(store: Store, job: int) -> Lease | None:
    """The lease on a job, lapsed or not; None if there is none."""
    rows = store.rows(f"SELECT owner, attempt FROM job WHERE id = ? AND {HELD['job']}", (job,))
    return Lease(subject=job, owner=rows[0]["owner"], attempt=rows[0]["attempt"]) if rows else None


def counts(store: Store) -> dict[str, int]:
    """How many jobs are in each state."""
    by_state = {row["state"]: int(row["n"]) for row in store.rows("SELECT state, count(*) AS n FROM job GROUP BY state")}
    return {state: by_state.get(state, 0) for state in ("queued", "leased", "running", "gating", "done", "failed")}


def add_step(store: Store, lease: Lease, update: Update) -> None:
    """Write an update of a job. Writing it again under the same lease replaces it."""
    with store.write() as conn:
        leases.check(store, "job", lease)
        conn.execute(
            "INSERT OR REPLACE INTO step (job, attempt, n, diagnostics, made_at) VALUES (?, ?, ?, ?, ?)",
            (lease.subject, lease.attempt, update.update, to_json(update_document(update)), time.time()),
        )


def job_times(store: Store) -> dict[int, JobTimes]:
    """Of all jobs, by number."""
    rows = store.rows("SELECT id, started_at, finished_at FROM job ORDER BY id")
    return {row["id"]: JobTimes(started=row["started_at"], finished=row["finished_at"]) for row in rows}


def times_of(store: Store, job: int) -> JobTimes:
    """Of one job. Raises `UnknownError`."""
    rows = store.rows("SELECT started_at, finished_at FROM job WHERE id = ?", (job,))
    if not rows:
        raise UnknownError(f"no job {job}; `perdure job list` shows them")
    return JobTimes(started=rows[0]["started_at"], finished=rows[0]["finished_at"])


def steps(store: Store, job: int) -> list[Step]:
    """The updates of a job in order, without those that a later attempt has undone by resuming from an earlier update."""
    rows = store.rows(
        """
        SELECT s.* FROM step s WHERE s.job = ?
          AND NOT EXISTS (SELECT 1 FROM step later WHERE later.job = s.job AND later.attempt > s.attempt AND later.n <= s.n)
        ORDER BY s.n
        """,
        (job,),
    )
    with reading_row(f"a step of job {job}"):
        return [
            Step(job=row["job"], attempt=row["attempt"], update=read_update(json.loads(row["diagnostics"])), made=row["made_at"])
            for row in rows
        ]


def _requeue_lapsed(store: Store, clock: Clock) -> None:
    """Queue the jobs whose lease has lapsed again, or fail those that have failed too often."""
    with store.write():
        if leases.requeue_lapsed(store, "job", clock, "the process that ran it died; its log is in logs/"):
            abort_orphans(store)


def _job(row: Any) -> Job:
    with reading_row(f"job {row['id']}"):
        return Job(
            id=row["id"],
            order=read_order(row["kind"], row["learner"], json.loads(row["options"])),
            targets=tuple(json.loads(row["targets"])),
            state=row["state"],
            attempt=row["attempt"],
            candidate=row["candidate"],
            result=None if row["result"] is None else read_result(row["kind"], json.loads(row["result"])),
            error=row["error"],
            created=row["created_at"],
        )
