"""The supervisor: one process that holds the home, owns the clock, and starts and watches the others. It never loads a model.

    actor      plays live tasks all the time, and is started again with back-off when it dies
    learner    one for each job, one at a time; a job whose process dies is failed, with the reason, and play goes on

State passes only through the database. Everything happens in one thread, in `run`; signals and the ticker (`schedule.py`) only say that
something is due. Left out: what to learn (`planner.py`), what ends a run (`limits.py`), and showing any of it (`view.py`).
"""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click

from perdure.agent.children import Backoff, Child, Exit, on_signals, stop
from perdure.agent.config import LoadedConfig
from perdure.agent.home import HomeLock
from perdure.agent.limits import Limits, Outcome, Tally, outcome
from perdure.agent.planner import verdict
from perdure.agent.schedule import Tick, look, start_ticker
from perdure.agent.stream import refill
from perdure.agent.terminal import visible
from perdure.agent.work import fail_orphan, requeue_orphan, requeue_tasks
from perdure.envs.environment import Environment
from perdure.envs.registry import load
from perdure.memory import tasks
from perdure.memory.environments import register
from perdure.memory.errors import PerdureError
from perdure.memory.jobs import get_job, unfinished_jobs
from perdure.memory.journal import abort_orphans
from perdure.memory.leases import BootClock, lapse
from perdure.memory.processes import beat, processes, record_event
from perdure.memory.records import Job
from perdure.memory.store import Store, checkpoint, create_store

GRACE_S = 8.0
"""Between SIGTERM and SIGKILL for children: long enough to end a round of generation and write it down."""

SILENT_S = 1800.0
"""An actor that has said nothing for so long hangs, and is ended."""

WATCH_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The modules that are run as children."""

    actor: str = "perdure.agent.actor"
    learner: str = "perdure.agent.learner"


@contextmanager
def supervising(home: Path, loaded: LoadedConfig, limits: Limits, programs: Programs = Programs()) -> Iterator[Supervisor]:
    """Take the home, bring its store to the present schema and put what a crash has left in order.

    Raises `InputError` where another process has the home or the configuration names what is not there, `RuntimeFailure` where the
    home cannot be written.
    """
    environments = [(load(name), name in loaded.config.gate.critical) for name in loaded.config.stream.environments]
    with HomeLock(home), create_store(home) as store:
        names = _register(store, environments)
        lapse(store)
        abort_orphans(store)
        yield Supervisor(store, loaded, names, limits, programs)


class Supervisor:
    """The loop. `run` returns when a limit is reached or a signal came; by then all children have ended."""

    def __init__(self, store: Store, loaded: LoadedConfig, environments: tuple[str, ...], limits: Limits, programs: Programs) -> None:
        self.store = store
        self._config = loaded.config
        self._arguments = ["--home", str(store.home), *(["--config", str(loaded.path)] if loaded.path else [])]
        self._environments = environments
        self._limits = limits
        self._programs = programs
        self._tally = Tally()
        self._tasks_before = _tasks_ended(store)
        self._due: queue.SimpleQueue[Tick] = queue.SimpleQueue()
        self._signals = 0
        self._outcome: Outcome | None = None
        self._actor: Child | None = None
        self._actor_backoff = Backoff()
        self._actor_starts = 0
        self._actor_end = ""
        self._learner: tuple[Child, Job] | None = None
        self._learner_backoff = Backoff()
        self._fruitless_at = 0.0
        self._why = ""
        """Why nothing is being learnt right now."""
        self._trouble: dict[str, str] = {}
        """What fails again and again, by what was tried."""

    def run(self) -> Outcome:
        """Supervise until the end. A second signal ends the children at once."""
        record_event(self.store, "start", "supervisor", f"process {os.getpid()}")
        with on_signals(self._signalled):
            ticker = start_ticker(self._config.schedule, self._due.put)
            try:
                while self._outcome is None:
                    for tick in self._ticks():
                        self._try(tick, _ACTIONS[tick])
                    self._try("watching the actor", Supervisor._watch_actor)
                    self._try("watching the learner", Supervisor._watch_learner)
                    self._outcome = self._outcome or outcome(self._limits, self._tally)
            finally:
                ticker.shutdown(wait=False)
                self._stop_children()
        record_event(self.store, "end", "supervisor", self._outcome.reason)
        beat(self.store, "supervisor", os.getpid(), "stopped", self._outcome.reason)
        return self._outcome

    def _ticks(self) -> list[Tick]:
        """What has become due, each once; waits a little."""
        found: dict[Tick, None] = {}
        try:
            found[self._due.get(timeout=WATCH_S)] = None
            while True:
                found[self._due.get_nowait()] = None
        except queue.Empty:
            return list(found)

    def _try(self, what: str, action: Callable[[Supervisor], None]) -> None:
        """One action of the loop. Where it fails that is written down once, and the loop goes on: the next tick tries again."""
        try:
            action(self)
            self._trouble.pop(what, None)
        except Exception as error:  # noqa: BLE001 - a tick that fails is written down
            trouble = str(error) if isinstance(error, PerdureError) else f"{type(error).__name__}: {error}"
            known = trouble in self._trouble.values()
            self._trouble[what] = trouble
            if not known:
                try:
                    record_event(self.store, "error", "supervisor", f"{what} failed: {trouble}")
                except PerdureError:  # a full disk takes no events either
                    click.echo(f"perdure: {what} failed: {visible(trouble)}", err=True)

    def _refill(self) -> None:
        room = None
        if self._limits.tasks is not None:
            now = tasks.counts(self.store)
            self._tally.tasks = now["done"] + now["failed"] - self._tasks_before
            room = self._limits.tasks - self._tally.tasks - now["queued"] - now["running"]
        refill(
            self.store,
            self._environments,
            per_environment=self._config.stream.tasks_per_round,
            members=self._config.play.members,
            root=self._config.seed,
            room=room,
        )

    def _learn(self, now: bool = False) -> None:
        """Queue a learning job where it is time, unless some job is waiting already."""
        if self._learner is not None or unfinished_jobs(self.store):
            return
        found = look(self.store, self._config, self._environments, since=self._fruitless_at, now=now)
        self._why = found.reason
        if found.fruitless:
            self._fruitless_at = time.time()
            self._tally.fruitless += 1
            self._tally.last = found.reason
            record_event(self.store, "no learning", "planner", found.reason)
        elif found.job is not None:
            self._tally.fruitless = 0

    def _watch_actor(self) -> None:
        if self._actor is None:
            if self._actor_backoff.ready():
                self._actor = Child("actor", self._programs.actor, self._arguments, self.store.home)
                self._actor_starts += 1
            return
        ended = self._actor.poll()
        if ended is None:
            self._end_if_silent(self._actor)
            return
        lapse(self.store, f"actor:{self._actor.pid}")  # where that fails, the next tick comes here again
        child, self._actor = self._actor, None
        if ended.code == 2 and self._actor_starts == 1:
            self._outcome = Outcome(code=2, reason=ended.last_line.removeprefix("error: "))
            return
        wait_s = self._actor_backoff.died(child.age_s)
        self._actor_end = self._tally.last = str(ended)
        self._tally.deaths = self._actor_backoff.deaths
        record_event(self.store, "restart", "actor", f"it {ended}; it starts again in {wait_s:g} s")

    def _watch_learner(self) -> None:
        if self._learner is None:
            waiting = unfinished_jobs(self.store)
            if waiting and self._learner_backoff.ready():
                job = waiting[0]
                arguments = [*self._arguments, "--job", str(job.id)]
                self._learner = Child(f"learner-{job.id}", self._programs.learner, arguments, self.store.home), job
            return
        child, job = self._learner
        ended = child.poll()
        if ended is None:
            return
        lapse(self.store, f"{child.name}:{child.pid}")  # where that fails, the next tick comes here again
        self._close(get_job(self.store, job.id), job, ended, child)
        self._learner = None

    def _close(self, job: Job, before: Job, ended: Exit, child: Child) -> None:
        """What becomes of a job whose process has ended: it came to its end, gave the job back, or died."""
        if job.state == "queued" and job.attempt > before.attempt:
            self._learner_backoff.died(child.age_s)
            return
        if job.state not in ("done", "failed"):
            fail_orphan(self.store, job.id, f"its process {ended}", BootClock())
            record_event(self.store, "job failed", child.name, f"its process {ended}")
            job = get_job(self.store, job.id)
        if job.kind == "learn":
            self._count(job)

    def _count(self, job: Job) -> None:
        found = verdict(job)
        if job.state == "failed":
            self._tally.failures += 1
            self._tally.last = job.error or "no reason was written down"
        else:
            self._tally.failures = 0
        if found is not None:
            told = f"{found}, {(job.result or {}).get('reason', '')}"
            record_event(self.store, "verdict", f"job {job.id}", f"{job.candidate}: {told}")
            self._tally.verdicts += 1
            self._tally.last = told
            if found == "promote":
                self._tally.promoted = self._tally.promoted or job.candidate

    def _end_if_silent(self, child: Child) -> None:
        """An actor beats in every round of generation. One that does not hangs; its end is dealt with like any other."""
        if child.age_s < SILENT_S:
            return
        said = next((row for row in processes(self.store) if (row.name, row.pid) == (child.name, child.pid)), None)
        if said is None or time.time() - said.beat > SILENT_S:
            record_event(self.store, "hangs", child.name, f"it said nothing for {SILENT_S / 60:.0f} minutes and is ended")
            child.signal(signal.SIGKILL)

    def _tidy(self) -> None:
        checkpoint(self.store)
        for child in (self._actor, self._learner[0] if self._learner else None):
            if child is not None:
                child.trim_log()

    def _beat(self) -> None:
        beat(self.store, "supervisor", os.getpid(), *self._condition())

    def _condition(self) -> tuple[str, str | None]:
        """What is going on, and why not more: what `perdure status` tells."""
        jobs = unfinished_jobs(self.store)
        if jobs:
            doing = "gating" if jobs[0].state == "gating" else {"learn": "learning", "gate": "gating", "probe": "probing"}[jobs[0].kind]
            return doing, f"job {jobs[0].id}: {' '.join((jobs[0].learner or jobs[0].kind, *jobs[0].targets))}"
        if self._actor is None:
            return "restarting", f"the actor {self._actor_end}" if self._actor_end else None
        said = next((row for row in processes(self.store) if (row.name, row.pid) == ("actor", self._actor.pid)), None)
        if said is None or said.state == "starting":
            return "starting", said.detail if said else "the actor is being started"
        return ("playing", self._why) if said.state in ("playing", "loading") else (said.state, said.detail)

    def _signalled(self) -> None:
        self._signals += 1
        self._outcome = self._outcome or Outcome(code=0, reason="stopped by a signal")

    def _stop_children(self) -> None:
        """End them, and give back what they could not give back themselves."""
        with suppress(PerdureError):
            beat(self.store, "supervisor", os.getpid(), "stopping", None)
        signals = self._signals
        children = [child for child in (self._actor, self._learner[0] if self._learner else None) if child is not None]
        stop(children, GRACE_S, hurry=lambda: self._signals > max(signals, 1))
        if self._actor is not None:
            requeue_tasks(self.store, f"actor:{self._actor.pid}")
            lapse(self.store, f"actor:{self._actor.pid}")
        if self._learner is not None:
            requeue_orphan(self.store, self._learner[1].id)
            lapse(self.store, f"{self._learner[0].name}:{self._learner[0].pid}")
        abort_orphans(self.store)
        checkpoint(self.store)


_ACTIONS: dict[Tick, Callable[[Supervisor], None]] = {
    "stream": Supervisor._refill,
    "learning": Supervisor._learn,
    "learning by the clock": lambda supervisor: supervisor._learn(now=True),
    "beat": Supervisor._beat,
    "checkpoint": Supervisor._tidy,
}


def _register(store: Store, environments: Sequence[tuple[Environment, bool]]) -> tuple[str, ...]:
    """Make environments, each with whether it is critical, known, all or none; gives their canonical names."""
    with store.write():
        for environment, critical in environments:
            register(store, environment.name, environment.threshold, environment.reward_low, environment.reward_high, critical)
    return tuple(dict.fromkeys(environment.name for environment, _ in environments))


def _tasks_ended(store: Store) -> int:
    now = tasks.counts(store)
    return now["done"] + now["failed"]
