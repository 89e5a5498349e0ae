"""What happens to jobs, tasks and logs whose process has ended.

Only the holder of the home's lock starts processes for jobs, so no process works on a job that none of its children has, whatever the
job's lease says.
"""

from __future__ import annotations

from pathlib import Path

from perdure.agent.processes.process_names import JOB_PREFIX, SUPERVISOR
from perdure.memory.jobs import fail_job, get_job, lease_job, lease_of, release_job, retry_job
from perdure.memory.leases import TTL_S, Clock
from perdure.memory.processes import forget_processes
from perdure.memory.store import Store
from perdure.memory.tasks import leases_of, release_task, retry_task

KEPT = 20
"""How many processes of jobs are remembered, with their logs."""


def fail_orphan(store: Store, job: int, error: str, clock: Clock, *, again: bool = False) -> None:
    """Write down that a job's process died, with the reason. A job that has ended is left alone.

    With `again` the job is tried again if it has attempts left.
    """
    with store.write():
        lease = lease_of(store, job)
        if lease is None and get_job(store, job).state == "queued":
            leased = lease_job(store, SUPERVISOR, TTL_S, clock, job)
            lease = leased[1] if leased else None
        if lease is not None:
            (retry_job if again else fail_job)(store, lease, error)


def requeue_orphan(store: Store, job: int) -> None:
    """Give back a job whose process was ended before it could do that itself. That counts as no attempt."""
    with store.write():
        lease = lease_of(store, job)
        if lease is not None:
            release_job(store, lease)


def requeue_tasks(store: Store, owner: str) -> None:
    """Give back the tasks of a process that was ended before it could do that itself. That counts as no attempt."""
    with store.write():
        for lease in leases_of(store, owner):
            release_task(store, lease)


def retry_tasks(store: Store, owner: str, error: str) -> None:
    """Count a failure of each task of a process that died, with the reason, and give back those that have attempts left."""
    with store.write():
        for lease in leases_of(store, owner):
            retry_task(store, lease, error)


def forget_old_processes(store: Store) -> None:
    """Delete the reports and logs of all but the latest processes of jobs."""
    forget_processes(store, JOB_PREFIX, KEPT)
    logs: dict[int, list[Path]] = {}
    for log in (store.home / "logs").glob(f"{JOB_PREFIX}*.log*"):
        number = log.name.removeprefix(JOB_PREFIX).partition(".")[0]
        if number.isdigit():
            logs.setdefault(int(number), []).append(log)
    for job in sorted(logs)[:-KEPT]:
        for log in logs[job]:
            log.unlink(missing_ok=True)
