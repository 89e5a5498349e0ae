"""Queue a job and see it through, whether or not a daemon is there to run it.

Where a supervisor holds the home it runs the job, and the command follows. Where nobody does, the command takes the lock and starts the
job's process itself; should the daemon end meanwhile, the command takes over. Nothing here learns: that is `agent/processes/job.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from perdure.agent.config_file import LoadedConfig
from perdure.agent.home import HomeBusy, HomeLock, lock_holder, lock_is_held, open_or_create
from perdure.agent.processes.installed_vllm import require_vllm
from perdure.agent.processes.names import VLLM, job_process
from perdure.agent.show.terminal import rounded
from perdure.agent.supervision.aftermath import fail_orphan
from perdure.agent.supervision.children import on_signals, stop
from perdure.agent.supervision.keepers import GRACE_S, JobKeeper, StandingKeeper, forget_steps
from perdure.memory.errors import RuntimeFailure
from perdure.memory.jobs import ENDED, add_job, get_job, steps
from perdure.memory.leases import BootClock, lapse
from perdure.memory.processes import events, processes
from perdure.memory.records import Job, JobKind
from perdure.memory.replay.journal import abort_orphans
from perdure.memory.store import Store, checkpoint, create_store, open_store

SHOWN = ("reward", "success", "old_success", "nll", "distillation_loss", "tokens_per_s", "seconds")
"""What is said of an update, of these what its learner has: rewards for some, the likelihood of what is imitated for others."""

POLL_S = 0.2
CHECKPOINT_S = 60.0

Say = Callable[[str], None]


def submit(home: Path, kind: JobKind, learner: str | None, targets: Sequence[str], options: Mapping[str, Any]) -> int:
    """Queue a job, in a home that is made where it is missing, and give its number."""
    with open_or_create(home) as store:
        return add_job(store, uuid4().hex, kind, learner, targets, options)


def run_or_follow(home: Path, loaded: LoadedConfig, job_id: int, say: Say) -> Job:
    """Wait until a job has ended, running it where nobody else does; `say` gets its progress. Gives the job, done or failed.

    Interrupted while it runs the job itself, it stops and fails the job; interrupted while it follows, it leaves the job to the daemon.
    Both raise `KeyboardInterrupt`.
    """
    while True:
        lock = HomeLock(home)
        try:
            lock.acquire()
        except HomeBusy:
            job = _follow(home, job_id, say)
        else:
            with _released(lock):
                job = _run(home, loaded, job_id, say)
        if job is not None:
            return job


def require_done(job: Job) -> dict[str, Any]:
    """The result of a job that ended well. Raises `RuntimeFailure` with its error otherwise."""
    if job.state != "done" or job.result is None:
        why = f": {job.error}" if job.error else " without giving a reason"
        raise RuntimeFailure(f"job {job.id} failed{why}; its log is logs/{job_process(job.id)}.log in the home")
    return job.result


def _follow(home: Path, job_id: int, say: Say) -> Job | None:
    """Wait for whoever holds the home; None where nobody does any more, and the job has not ended."""
    say(f"job {job_id} is queued; process {lock_holder(home)} works in {home}")
    try:
        with open_store(home) as store:
            progress = Progress(store, job_id, say)
            while True:
                job = get_job(store, job_id)
                progress.tell()
                if job.state in ENDED:
                    return job
                if not lock_is_held(home):
                    return None
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        say(f"job {job_id} stays queued or goes on; `perdure status` tells of it")
        raise


def _run(home: Path, loaded: LoadedConfig, job_id: int, say: Say) -> Job:
    """Start the job's process, and the vLLM server that it wants, and wait for the job's end, as the holder of the home's lock."""
    require_vllm(loaded.config)
    interrupted: list[bool] = []
    with create_store(home) as store, on_signals(lambda: interrupted.append(True)):
        lapse(store)  # whoever held leases here is gone: the lock is ours
        abort_orphans(store)
        forget_steps(store)
        arguments = ["--home", str(store.home), *(["--config", str(loaded.path)] if loaded.path else [])]
        supervise = loaded.config.supervise
        keeper = JobKeeper(store, "perdure.agent.processes.job", arguments, supervise.hang_s)
        server = None
        if loaded.config.engine == "vllm":
            server = StandingKeeper(store, VLLM, "perdure.agent.processes.vllm_server", arguments, supervise.hang_s, supervise.tries)
        progress = Progress(store, job_id, say)
        checkpointed_s = time.monotonic()
        try:
            while not interrupted:
                if server is not None:
                    server.tick(wanted=True)
                    if server.refused is not None or server.deaths >= supervise.tries:
                        why = f"the vLLM server cannot be kept: {server.refused or server.death}"
                        fail_orphan(store, job_id, why, BootClock())
                        raise RuntimeFailure(why)
                if keeper.watched is None:
                    job = get_job(store, job_id)
                    if job.state in ENDED:
                        return job
                    if keeper.start(job):
                        say(f"job {job_id} starts in a process of its own, which loads the model first")
                keeper.poll()
                progress.tell()
                if time.monotonic() - checkpointed_s > CHECKPOINT_S:  # the job's own process never does: the lock is not its
                    checkpoint(store)
                    checkpointed_s = time.monotonic()
                time.sleep(POLL_S)
        finally:
            for watched in (keeper.watched, server.watched if server else None):
                stop([watched.child] if watched else [], GRACE_S, hurry=lambda: len(interrupted) > 1)
        fail_orphan(store, job_id, "interrupted", BootClock())
        raise KeyboardInterrupt


@contextmanager
def _released(lock: HomeLock) -> Iterator[None]:
    try:
        yield
    finally:
        lock.release()


class Progress:
    """Tells of a job what is new since it was asked last."""

    def __init__(self, store: Store, job_id: int, say: Say) -> None:
        self._store = store
        self._job = job_id
        self._say = say
        self._told: set[tuple[int, int]] = set()
        self._doing: str | None = None
        self._event = max((event.id for event in events(store, 1)), default=0)

    def tell(self) -> None:
        for event in reversed(events(self._store, 20)):
            if event.id > self._event and event.kind in ("model", "death"):
                self._say(event.message)
                self._event = event.id
        for process in processes(self._store):
            if process.name == job_process(self._job) and process.detail and process.detail != self._doing:
                self._doing = process.detail
                self._say(f"{process.state}: {process.detail}")
        for step in steps(self._store, self._job):
            if (step.attempt, step.n) in self._told:
                continue
            shown = {name: step.diagnostics.get(name) for name in SHOWN}
            self._say(f"update {step.n}: " + ", ".join(f"{name} {rounded(value)}" for name, value in shown.items() if value is not None))
            self._told.add((step.attempt, step.n))
