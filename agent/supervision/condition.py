"""How a run stands: what its processes do, and why not more. One line, which `perdure status` and the service manager are told."""

from __future__ import annotations

from perdure.agent.supervision.disk import Room
from perdure.agent.supervision.keepers import JobKeeper, StandingKeeper, not_serving
from perdure.memory.jobs import get_job, unfinished_jobs
from perdure.memory.store import Store

STREAM_ENDED = "the stream has come to its end: `perdure task add` asks for more, or write another stage"
DOING = {"learn": "learning", "gate": "gating", "probe": "probing"}


def condition(
    store: Store, server: StandingKeeper | None, actor: StandingKeeper, jobs: JobKeeper, room: Room, *, played_out: bool, no_learning: str
) -> tuple[str, str | None]:
    """A state and why; `no_learning` says why nothing is being learnt. What comes first here keeps what comes later from going on."""
    if server is not None and (waits_for_it := not_serving(server)):
        return waits_for_it
    if jobs.job is not None:
        job = get_job(store, jobs.job.id)
        doing = "gating" if job.state == "gating" else DOING[job.kind]
        return doing, f"job {job.id}: {' '.join((job.learner or job.kind, *job.targets))}"
    if room.play is not None:
        return "paused", f"play and learning wait for room: {room.play}"
    if actor.watched is None:
        return "restarting", f"the actor died, {actor.death}" if actor.death else None
    said = actor.watched.said()
    if said is None or not plays(actor):
        return "starting", said.detail if said else "the actor is being started"
    why = _waiting(store, jobs, room) or no_learning
    if said.state == "idle" and played_out:
        return "idle", f"{STREAM_ENDED}; {why}"
    return ("playing", why) if said.state in ("playing", "loading") else (said.state, said.detail)


def plays(actor: StandingKeeper) -> bool:
    """Whether there is an actor that has its model, and with it a version that serves."""
    said = actor.watched.said() if actor.watched else None
    return said is not None and said.state != "starting"


def _waiting(store: Store, jobs: JobKeeper, room: Room) -> str:
    """Why a job that is queued is not worked on; empty where none is, or where it is about to be."""
    waiting = unfinished_jobs(store)
    if not waiting:
        return ""
    if room.learn is not None:
        return f"job {waiting[0].id} waits for room: {room.learn}"
    return f"job {waiting[0].id} is tried again soon, its process died: {jobs.death}" if jobs.death else ""
