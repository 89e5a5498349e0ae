"""Keepers of child processes: of actor and vLLM servers, which run all the time, of one process for each job, and of those beside them.

A keeper starts its process, watches it, and decides after a death what happens to its work and when it starts again. Left out: when to
learn (`learning_jobs.py`), and when to give up (`limits.py`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence

from perdure.agent.processes.exit_codes import TRANSIENT
from perdure.agent.processes.process_names import job_process
from perdure.agent.supervision.abandoned_work import fail_orphan, forget_old_processes, requeue_orphan, requeue_tasks, retry_tasks
from perdure.agent.supervision.causes import End
from perdure.agent.supervision.children import Backoff, Child
from perdure.agent.supervision.watch import Watched
from perdure.memory.contracts.orders import Job
from perdure.memory.jobs import ENDED, get_job
from perdure.memory.leases import BootClock, end_leases_of
from perdure.memory.processes import beat, record_event
from perdure.memory.store import Store

GRACE_S = 5.0
"""Between SIGTERM and SIGKILL: enough to end a round of generation and write it down."""


class StandingKeeper:
    """Keeper of a process that runs all the time, the actor or a vLLM server: starts it again with back-off when it dies."""

    def __init__(
        self,
        store: Store,
        name: str,
        program: str,
        arguments: Sequence[str],
        hang_s: float,
        tries: int | None,
        *,
        json_log: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """With `tries=None` it is never given up, since others do the same work; `variables` are added to its environment."""
        self.name = name
        self.watched: Watched | None = None
        self.bad_configuration: str | None = None
        """Why the very first process could not work with its configuration; None if that did not happen."""
        self.death = ""
        """Why the last process died."""
        self._store = store
        self._program = program
        self._arguments = arguments
        self._hang_s = hang_s
        self._tries = tries
        self._json_log = json_log
        self._variables = variables
        self._backoff = Backoff()
        self._starts = 0

    def tick(self, wanted: bool) -> None:
        """Start the process if there is none, and see whether it has ended. If it is not wanted, ask it to end."""
        if self.watched is None:
            if wanted and self._backoff.ready():
                child = Child(
                    self.name, self._program, self._arguments, self._store.home, json_log=self._json_log, variables=self._variables
                )
                self.watched = Watched(self._store, child, self._hang_s)
                self._starts += 1
            return
        if not wanted:
            self.watched.ask_to_end(GRACE_S)
        end = self.watched.poll()
        if end is None:
            return
        if self.watched.asked or end.cause == "unavailable":  # not the fault of its tasks
            requeue_tasks(self._store, self.watched.owner)
        else:
            retry_tasks(self._store, self.watched.owner, f"the process that played it died, {end}")
        end_leases_of(self._store, self.watched.owner)  # if that fails, the next tick tries again
        watched, self.watched = self.watched, None
        if end.cause == "refused" and self._starts == 1:
            self.bad_configuration = end.exit.last_line.removeprefix("error: ")
        elif not watched.asked:
            self._record_death(end, watched.lived_s)

    @property
    def deaths(self) -> int:
        """How often it died in a row, each time soon after its start. Ends by a full disk do not count: it goes on when there is room."""
        return self._backoff.deaths

    def _record_death(self, end: End, lived_s: float) -> None:
        wait_s = self._backoff.died(lived_s, unavailable=end.cause == "unavailable")
        self.death = str(end)
        then = "is given up" if self._tries is not None and self.deaths >= self._tries else f"starts again in {wait_s:g} s"
        record_event(self._store, "death", self.name, f"{end}; it {then}")


def not_serving(servers: Sequence[StandingKeeper]) -> tuple[str, str] | None:
    """State and detail of the first vLLM server, if none of them answers; None if one does, or if there is none."""
    lacks = [_not_serving(server) for server in servers]
    return lacks[0] if all(lacks) and lacks else None


def _not_serving(server: StandingKeeper) -> tuple[str, str] | None:
    if server.watched is None:
        return "restarting", f"the vLLM server died, {server.death}"
    report = server.watched.report()
    if report is not None and report.state == "serving":
        return None
    doing = report.detail if report and report.detail else "it is being started"
    return ("restarting", f"the vLLM server died, {server.death}; {doing}") if server.death else ("starting", doing)


def delete_step_weights(store: Store) -> None:
    """Delete the weights of single steps, which killed jobs have left. Only while no process samples in this home."""
    shutil.rmtree(store.home / "run" / "steps", ignore_errors=True)


class JobKeeper:
    """Keeper of a process for one job at a time. After a death the job is tried again or failed, as the cause of death says."""

    def __init__(
        self,
        store: Store,
        program: str,
        arguments: Sequence[str],
        hang_s: float,
        *,
        json_log: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """`variables` are added to the environment of its processes."""
        self.watched: Watched | None = None
        self.job: Job | None = None
        """The job that has a process, as it was before its process started."""
        self.death = ""
        """Why the last process died; empty if it ended well."""
        self._store = store
        self._program = program
        self._arguments = arguments
        self._hang_s = hang_s
        self._json_log = json_log
        self._variables = variables
        self._backoff = Backoff()

    def start(self, job: Job) -> bool:
        """Start the process of a job; False if the last process died just now and it is too soon."""
        if not self._backoff.ready():
            return False
        arguments = [*self._arguments, "--job", str(job.id)]
        child = Child(job_process(job.id), self._program, arguments, self._store.home, json_log=self._json_log, variables=self._variables)
        self.watched, self.job = Watched(self._store, child, self._hang_s), job
        return True

    def poll(self) -> Job | None:
        """The job whose process has ended, as it is now: done, failed, or queued again. None if no process has ended."""
        if self.watched is None or self.job is None:
            return None
        end = self.watched.poll()
        if end is None:
            if get_job(self._store, self.job.id).cancelled:
                self.watched.ask_to_end(GRACE_S)
            return None
        end_leases_of(self._store, self.watched.owner)  # if that fails, the next poll tries again
        job = self._close(self.watched, self.job, end)
        self.watched = self.job = None
        forget_old_processes(self._store)
        return job

    def give_back(self) -> None:
        """Give back the job of a process that was asked to end. That counts as no attempt."""
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
        if end.exit.code != 0 and not watched.asked and not job.cancelled:
            self.death = str(end)
            record_event(self._store, "death", watched.child.name, f"{end}; job {job.id} is {job.state}")
        if job.state not in ENDED:
            self._backoff.died(watched.lived_s)
        return job


class SideKeeper:
    """Keeper of a process beside play and learning: of the page, of the journal, of the cluster.

    Its end is the end of nothing else, it is never given up, and what keeps it from working is told once.
    """

    def __init__(
        self, store: Store, name: str, program: str, arguments: Sequence[str], hang_s: float, lack: str | None, *, json_log: bool = False
    ) -> None:
        """`lack` says why there can be none, as if packages are missing; then none is started."""
        self.name = name
        self.watched: Watched | None = None
        self._store = store
        self._program = program
        self._arguments = arguments
        self._hang_s = hang_s
        self._lack = lack
        self._json_log = json_log
        self._backoff = Backoff()
        self._news: tuple[str, str, str] | None = None
        """Kind, subject matter and message of what is to be written down; while the store takes nothing it waits here."""
        self._told = ""
        """The latest obstacle or death that became an event; empty once there was a process for a while."""
        if lack is not None:
            self._news = name, lack, lack

    def tick(self) -> None:
        """Start the process if there is none, and see whether it has ended."""
        if self._lack is None:
            self._keep()
        if self._news is not None:
            self._tell(*self._news)
            self._news = None

    def _keep(self) -> None:
        if self.watched is None:
            if self._backoff.ready():
                child = Child(self.name, self._program, self._arguments, self._store.home, json_log=self._json_log)
                self.watched = Watched(self._store, child, self._hang_s)
            return
        end = self.watched.poll()
        if end is None:
            if self.watched.lived_s > Backoff.LIVED_S:
                self._told = ""
            return
        watched, self.watched = self.watched, None
        wait_s = self._backoff.died(watched.lived_s, unavailable=end.cause == "unavailable")
        if end.cause in ("refused", "unavailable"):
            why = end.exit.last_line.removeprefix("error: ")
            self._news = self.name, why, f"{why}; it is tried again"
            return
        if wait_s < Backoff.LONGEST_S:  # after some deaths in a row the next ones are no news
            self._told = ""
        self._news = "death", str(end), f"{end}; it starts again in {wait_s:g} s"

    def _tell(self, kind: str, what: str, message: str) -> None:
        """Write down what keeps it from serving: as its state, and as an event if it is news."""
        with self._store.write():
            beat(self._store, self.name, os.getpid(), "waiting", what)
            if what != self._told:
                record_event(self._store, kind, self.name, message)
        self._told = what
