"""Keeping an actor at play, a vLLM server where one is wanted, and a process at each job: started, watched, and buried when it has died.

The supervisor has one of each; a command that runs its job by itself has no actor. Left out: when to learn, and when to give up.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from perdure.agent.processes.exit_codes import TRANSIENT
from perdure.agent.processes.names import job_process
from perdure.agent.supervision.causes import End
from perdure.agent.supervision.children import Backoff, Child
from perdure.agent.supervision.orphans import fail_orphan, forget_old_processes, requeue_orphan, requeue_tasks
from perdure.agent.supervision.watch import Watched
from perdure.memory.jobs import ENDED, get_job
from perdure.memory.leases import BootClock, lapse
from perdure.memory.processes import record_event
from perdure.memory.records import Job
from perdure.memory.store import Store

GRACE_S = 5.0
"""Between SIGTERM and SIGKILL: long enough to end a round of generation and write it down."""


class StandingKeeper:
    """A process that is to be there all the time, the actor or the vLLM server: started again with back-off when it dies."""

    def __init__(self, store: Store, name: str, program: str, arguments: Sequence[str], hang_s: float, tries: int) -> None:
        self.name = name
        self.watched: Watched | None = None
        self.refused: str | None = None
        """Why the very first one could not work with its configuration, where that was so."""
        self.death = ""
        """Why the last one died."""
        self._store = store
        self._program = program
        self._arguments = arguments
        self._hang_s = hang_s
        self._tries = tries
        self._backoff = Backoff()
        self._starts = 0

    def tick(self, wanted: bool) -> None:
        """Start it where it is missing, and see what has become of it. Where it is not wanted, it is told to end."""
        if self.watched is None:
            if wanted and self._backoff.ready():
                child = Child(self.name, self._program, self._arguments, self._store.home)
                self.watched = Watched(self._store, child, self._hang_s)
                self._starts += 1
            return
        if not wanted:
            self.watched.ask_to_end(GRACE_S)
        end = self.watched.poll()
        if end is None:
            return
        if self.watched.asked or end.cause == "unavailable":  # which says nothing about its tasks
            requeue_tasks(self._store, self.watched.owner)
        lapse(self._store, self.watched.owner)  # where that fails, the next tick comes here again
        watched, self.watched = self.watched, None
        if end.cause == "refused" and self._starts == 1:
            self.refused = end.exit.last_line.removeprefix("error: ")
        elif not watched.asked:
            self._record_death(end, watched.lived_s)

    @property
    def deaths(self) -> int:
        """How often it died in a row, each time soon after its start. Ends by a full disk do not count: it goes on when there is room."""
        return self._backoff.deaths

    def _record_death(self, end: End, lived_s: float) -> None:
        wait_s = self._backoff.died(lived_s, for_room=end.cause == "unavailable")
        self.death = str(end)
        then = "is given up" if self.deaths >= self._tries else f"starts again in {wait_s:g} s"
        record_event(self._store, "death", self.name, f"{end}; it {then}")


def not_serving(server: StandingKeeper) -> tuple[str, str] | None:
    """State and detail of a vLLM server that does not answer; None where it does."""
    if server.watched is None:
        return "restarting", f"the vLLM server died, {server.death}"
    said = server.watched.said()
    if said is not None and said.state == "serving":
        return None
    doing = said.detail if said and said.detail else "it is being started"
    return ("restarting", f"the vLLM server died, {server.death}; {doing}") if server.death else ("starting", doing)


def forget_steps(store: Store) -> None:
    """Delete what jobs that were killed have left of the weights of their steps. Only where nobody samples in this home."""
    shutil.rmtree(store.home / "run" / "steps", ignore_errors=True)


class JobKeeper:
    """A process for one job at a time. One that died is tried again, or its job is failed, as its cause of death says."""

    def __init__(self, store: Store, program: str, arguments: Sequence[str], hang_s: float) -> None:
        self.watched: Watched | None = None
        self.job: Job | None = None
        """The job that has a process, as it was before it got one."""
        self.death = ""
        """Why the last process died; empty where it ended well."""
        self._store = store
        self._program = program
        self._arguments = arguments
        self._hang_s = hang_s
        self._backoff = Backoff()

    def start(self, job: Job) -> bool:
        """Start the process of a job; False where the last one died just now, and it is too soon."""
        if not self._backoff.ready():
            return False
        child = Child(job_process(job.id), self._program, [*self._arguments, "--job", str(job.id)], self._store.home)
        self.watched, self.job = Watched(self._store, child, self._hang_s), job
        return True

    def poll(self) -> Job | None:
        """The job whose process has ended, as it is now: done, failed, or queued again. None where there is none."""
        if self.watched is None or self.job is None:
            return None
        end = self.watched.poll()
        if end is None:
            return None
        lapse(self._store, self.watched.owner)  # where that fails, the next poll comes here again
        job = self._close(self.watched, self.job, end)
        self.watched = self.job = None
        forget_old_processes(self._store)
        return job

    def give_back(self) -> None:
        """Give back the job of a process that was told to end. It counts as no attempt."""
        if self.job is not None:
            requeue_orphan(self._store, self.job.id)

    def _close(self, watched: Watched, before: Job, end: End) -> Job:
        if watched.asked:
            self.give_back()
        job = get_job(self._store, before.id)
        gave_back = job.state == "queued" and job.attempt > before.attempt
        if job.state not in ENDED and not gave_back:
            fail_orphan(self._store, job.id, f"its process died, {end}", BootClock(), again=end.cause in TRANSIENT)
            job = get_job(self._store, job.id)
        self.death = ""
        if end.exit.code != 0 and not watched.asked:
            self.death = str(end)
            record_event(self._store, "death", watched.child.name, f"{end}; job {job.id} is {job.state}")
        if job.state not in ENDED:
            self._backoff.died(watched.lived_s)
        return job
