"""The work of a home as its supervisor sees it: which jobs are to be done, and what becomes of work whose process has ended.

Only the holder of the home's lock starts processes for jobs, so a job that no child of its works on is nobody's, whatever its lease says.
"""

from __future__ import annotations

from perdure.memory import leases
from perdure.memory.jobs import fail_job, get_job, lease_job, release_job
from perdure.memory.leases import TTL_S, Clock
from perdure.memory.records import Job, Lease
from perdure.memory.store import Store
from perdure.memory.tasks import release_task


def unfinished_jobs(store: Store) -> list[Job]:
    """Jobs that are queued or being worked on, the oldest first."""
    rows = store.rows("SELECT id FROM job WHERE state IN ('queued', 'leased', 'running', 'gating') ORDER BY id")
    return [get_job(store, row["id"]) for row in rows]


def fail_orphan(store: Store, job: int, error: str, clock: Clock) -> None:
    """Write down that a job's process died, with the reason. One that had come to its end is left alone."""
    with store.write():
        lease = _lease_of(store, job)
        if lease is None and get_job(store, job).state == "queued":
            leased = lease_job(store, "supervisor", TTL_S, clock, job)
            lease = leased[1] if leased else None
        if lease is not None:
            fail_job(store, lease, error)


def requeue_orphan(store: Store, job: int) -> None:
    """Give back a job whose process was stopped before it could do that itself. It counts as no attempt."""
    with store.write():
        lease = _lease_of(store, job)
        if lease is not None:
            release_job(store, lease)


def requeue_tasks(store: Store, owner: str) -> None:
    """Give back the tasks of a process that was stopped before it could do that itself. It counts as no attempt."""
    with store.write():
        for row in store.rows("SELECT id, attempt FROM task WHERE state = 'leased' AND owner = ?", (owner,)):
            release_task(store, Lease(subject=row["id"], owner=owner, attempt=row["attempt"]))


def _lease_of(store: Store, job: int) -> Lease | None:
    """The lease that some process has on a job, were it still alive."""
    rows = store.rows(f"SELECT owner, attempt FROM job WHERE id = ? AND owner IS NOT NULL AND {leases.HELD['job']}", (job,))
    return Lease(subject=job, owner=rows[0]["owner"], attempt=rows[0]["attempt"]) if rows else None
