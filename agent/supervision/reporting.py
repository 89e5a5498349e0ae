"""What a daemon says of itself: how the run stands and why not more happens, for `perdure status` and for the service manager."""

from __future__ import annotations

import os
from collections.abc import Sequence

from perdure.agent.processes.process_names import SUPERVISOR
from perdure.agent.supervision.disk import WAITS_FOR_ROOM, DiskLack
from perdure.agent.supervision.halts import Halts
from perdure.agent.supervision.keepers import JobKeeper, StandingKeeper, not_serving
from perdure.agent.supervision.systemd import Systemd
from perdure.memory.jobs import get_job, steps, unfinished_jobs
from perdure.memory.processes import CONFINEMENT, DISK, GIVEN_UP, START, beat, record_event
from perdure.memory.store import Store

STREAM_ENDED = "the stream has ended: `perdure task add` asks for more, or add a stage"
DOING = {"learn": "learning", "gate": "gating", "probe": "probing"}


class Reporter:
    """Reports of one run, to the store and to systemd."""

    def __init__(self, store: Store, actor: StandingKeeper, servers: Sequence[StandingKeeper], jobs: JobKeeper) -> None:
        self._store = store
        self._actor = actor
        self._servers = servers
        self._jobs = jobs
        self._systemd = Systemd(os.environ)
        self._progress_s = 0.0
        """The latest progress that was reported to systemd."""

    def started(self, hang_s: float, confinement: str) -> None:
        """`confinement` says whether environments are confined."""
        record_event(self._store, START, SUPERVISOR, f"process {os.getpid()}")
        record_event(self._store, CONFINEMENT, SUPERVISOR, confinement)
        patience_s = self._systemd.watchdog_s
        if patience_s is not None and patience_s <= hang_s:
            message = (
                f"WatchdogSec is {patience_s:g} s and supervise.hang_s is {hang_s}: make the first one longer, or one slow round ends "
                "the daemon"
            )
            record_event(self._store, "warning", "systemd", message)

    def beat(self, halted: Halts, *, played_out: bool, no_learning: str) -> None:
        """Report how the run stands now."""
        state, why = condition(self._store, self._servers, self._actor, self._jobs, halted, played_out=played_out, no_learning=no_learning)
        beat(self._store, SUPERVISOR, os.getpid(), state, why)
        self._systemd.status(f"{state}: {why}" if why else state)
        if state == "paused" or plays(self._actor):
            self._systemd.ready()
        if self._goes_on():
            self._systemd.alive()

    def room_changed(self, before: DiskLack, now: DiskLack) -> None:
        for what, was, reason in (("learning", before.learn, now.learn), ("play", before.play, now.play)):
            if (was is None) != (reason is None):
                record_event(self._store, DISK, what, f"{WAITS_FOR_ROOM}: {reason}" if reason else "there is room again")

    def stopping(self) -> None:
        self._systemd.stopping()

    def ended(self, reason: str, *, given_up: bool) -> None:
        if given_up:
            record_event(self._store, GIVEN_UP, SUPERVISOR, reason)
        record_event(self._store, "end", SUPERVISOR, reason)
        beat(self._store, SUPERVISOR, os.getpid(), "stopped", reason)

    def _goes_on(self) -> bool:
        """Whether there was progress since the last report of it. True as well while all wait rightly, for room or to start again."""
        working = self._jobs.watched or self._actor.watched  # while a job works, an actor that pauses for it proves nothing
        if working is None:
            return True
        if working.progress_s <= self._progress_s:
            return False
        self._progress_s = working.progress_s
        return True


def condition(
    store: Store,
    servers: Sequence[StandingKeeper],
    actor: StandingKeeper,
    jobs: JobKeeper,
    halted: Halts,
    *,
    played_out: bool,
    no_learning: str,
) -> tuple[str, str | None]:
    """A state and why; `no_learning` says why nothing is being learned. The first reason that holds is given."""
    if waits_for_server := not_serving(servers):
        return waits_for_server
    if jobs.job is not None:
        job = get_job(store, jobs.job.id)
        doing = "gating" if job.state == "gating" else DOING[job.kind]
        made = len(steps(store, job.id))
        return doing, f"job {job.id}: {' '.join((job.learner or job.kind, *job.targets))}" + (f", {made} updates so far" if made else "")
    if halted.play is not None:
        learning = halted.job or halted.learn
        both = learning if learning != halted.play else None
        return "paused", f"{halted.play}; {both}" if both else halted.play
    if actor.watched is None:
        return "restarting", f"the actor died, {actor.death}" if actor.death else None
    latest = actor.watched.report()
    if latest is None or not plays(actor):
        return "starting", latest.detail if latest else "the actor is being started"
    why = _waiting(store, jobs, halted) or no_learning
    if latest.state == "idle" and played_out:
        return "idle", f"{STREAM_ENDED}; {why}"
    return ("playing", why) if latest.state in ("playing", "loading") else (latest.state, latest.detail)


def plays(actor: StandingKeeper) -> bool:
    """Whether there is an actor that has loaded its model, so that a version serves."""
    latest = actor.watched.report() if actor.watched else None
    return latest is not None and latest.state != "starting"


def _waiting(store: Store, jobs: JobKeeper, halted: Halts) -> str:
    """Why a queued job is not being run; empty if none is queued, or if it is about to start."""
    waiting = unfinished_jobs(store)
    if not waiting:
        return ""
    if halted.learn is not None:
        return f"job {waiting[0].id}: {halted.learn}"
    return f"job {waiting[0].id} is tried again soon, its process died: {jobs.death}" if jobs.death else ""
