"""Queue a job and wait for its end, whether or not a daemon is there to run it.

If a daemon holds the home, it runs the job and the command follows. Otherwise the command takes the lock and supervises the job's process
itself; it takes over as well if the daemon ends meanwhile. Nothing here learns: that is `agent/processes/job.py`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

from perdure.agent.config_file import LoadedConfig
from perdure.agent.home import HomeBusy, lock_holder, lock_is_held, open_or_create
from perdure.agent.processes.process_names import SUPERVISOR, job_process
from perdure.agent.show.home_snapshot import reporting_changes
from perdure.agent.supervision.abandoned_work import fail_orphan
from perdure.agent.supervision.limits import Limits
from perdure.agent.supervision.supervisor import Programs, supervising
from perdure.memory.contracts.orders import Job, Order
from perdure.memory.errors import RuntimeFailure
from perdure.memory.jobs import ENDED, add_job, get_job, unfinished_jobs
from perdure.memory.leases import BootClock
from perdure.memory.processes import processes
from perdure.memory.store import Store, open_store

POLL_S = 0.2

HELD_UP = re.compile("learning (is paused|waits? for room)")
"""What a daemon says of itself while it may not begin a job."""

Say = Callable[[str], None]


def submit(home: Path, targets: Sequence[str], order: Order) -> int:
    """Queue a job and give its number. The home is made if it does not exist."""
    with open_or_create(home) as store:
        return add_job(store, uuid4().hex, targets, order)


def run_or_follow(home: Path, loaded: LoadedConfig, job_id: int, say: Say, *, goes_on_later: bool = False) -> Job:
    """Wait until a job has ended, and run it if no daemon does; `say` gets its progress. Gives the job, done or failed.

    If the command is interrupted while it runs the job itself, it stops and fails the job, or leaves it queued if it `goes_on_later`; if
    it is interrupted while it follows, it leaves the job to the daemon. Both raise `KeyboardInterrupt`.
    """
    while True:
        try:
            return _run(home, loaded, job_id, say, goes_on_later)
        except HomeBusy:
            job = _follow(home, job_id, say)
        if job is not None:
            return job


def require_done(job: Job) -> Job:
    """The job itself if it is done. Raises `RuntimeFailure` with its error otherwise."""
    if job.state != "done" or job.result is None:
        if job.cancelled:
            raise RuntimeFailure(f"job {job.id} was {job.error}")
        reason = f": {job.error}" if job.error else " without giving a reason"
        raise RuntimeFailure(f"job {job.id} failed{reason}; its log is logs/{job_process(job.id)}.log in the home")
    return job


def _run(home: Path, loaded: LoadedConfig, job_id: int, say: Say, goes_on_later: bool) -> Job:
    """Supervise the process of the job, and the vLLM server if it needs one, until the job has ended."""
    limits = Limits(job=job_id, tries=loaded.config.supervise.tries)
    with supervising(home, loaded, limits, Programs(actor=None)) as supervisor:
        say(f"job {job_id} starts in a process of its own, which loads the model first")
        with reporting_changes(home, say, job_id):
            ended = supervisor.run()
        job = get_job(supervisor.store, job_id)
        if job.state in ENDED:
            return job
        error = "interrupted" if ended.code == 0 else f"the vLLM server cannot be kept: {ended.reason}"
        if ended.code != 0 or not goes_on_later:
            fail_orphan(supervisor.store, job_id, error, BootClock())
    if ended.code == 0:
        raise KeyboardInterrupt
    raise RuntimeFailure(error)


def _follow(home: Path, job_id: int, say: Say) -> Job | None:
    """Wait while another process holds the home; None if none does any more and the job has not ended."""
    say(f"job {job_id} is queued; process {lock_holder(home)} works in {home}")
    told: str | None = None
    try:
        with open_store(home) as store, reporting_changes(home, say, job_id):
            while True:
                job = get_job(store, job_id)
                if job.state in ENDED:
                    return job
                if not lock_is_held(home):
                    return None
                waits = _waits_for(store, job)
                if waits is not None and waits != told:
                    say(f"job {job_id} waits: {waits}")
                told = waits
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        say(f"job {job_id} stays queued or goes on; `perdure job show {job_id}` shows it, and `perdure job cancel {job_id}` takes it back")
        raise


def _waits_for(store: Store, job: Job) -> str | None:
    """Why the daemon does not run a queued job yet; None if it works on it, or is about to."""
    if job.state != "queued":
        return None
    first = next(iter(unfinished_jobs(store)), job)
    if first.id != job.id:
        return f"job {first.id} comes first, {' '.join((first.learner or first.kind, *first.targets))}"
    said = next((process.detail for process in processes(store) if process.name == SUPERVISOR), None) or ""
    own = said.removeprefix(f"job {job.id}: ")
    return own if own != said or HELD_UP.search(said) else None
