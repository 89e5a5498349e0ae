"""When to do what: a ticker that only says *when*, and the question whether it is time to learn.

Ticks are names in a queue. The work that they ask for is in the database, so a lost tick costs nothing. The APScheduler's own job stores
are not used: a job in them can vanish with its process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from perdure.agent.config import Config, ScheduleSection
from perdure.agent.supervision.planner import choose_target, refusals, start_for
from perdure.memory.contracts.orders import Job, LearnOrder
from perdure.memory.errors import UnknownError
from perdure.memory.jobs import add_job, list_jobs
from perdure.memory.processes import record_event
from perdure.memory.replay.episodes import live_episodes, success_rates
from perdure.memory.store import Store
from perdure.memory.versions import get_version, moves, serving

Tick = Literal["stream", "learning", "learning by the clock", "beat", "checkpoint"]

EVERY_S: dict[Tick, float] = {"stream": 0.5, "learning": 1.0, "beat": 2.0, "checkpoint": 60.0}
LATEST_JOBS = 200


def start_ticker(schedule: ScheduleSection, due: Callable[[Tick], None]) -> BackgroundScheduler:
    """Start a thread that calls `due(tick)` whenever a tick is due; `shutdown()` ends it."""
    ticker = BackgroundScheduler(job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None})
    for tick, seconds in EVERY_S.items():
        ticker.add_job(due, "interval", args=[tick], seconds=seconds)
    if schedule.cron:
        ticker.add_job(due, CronTrigger.from_crontab(schedule.cron), args=["learning by the clock"])
    if schedule.every_minutes:
        ticker.add_job(due, "interval", args=["learning by the clock"], minutes=schedule.every_minutes)
    ticker.start()
    return ticker


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The result of `look`."""

    job: int | None = None
    """The job that was queued."""
    fruitless: bool = False
    """It was time to learn, but nothing is learnable."""
    reason: str
    """Why a job was queued, or why not."""


def look(store: Store, config: Config, environments: tuple[str, ...], *, since: float, now: bool = False) -> Look:
    """Queue a learning job if it is time for one and something is learnable.

    It is time after `learn.every_episodes` live episodes of the serving version that began after `since` (Unix seconds, of the last
    fruitless look) and after the last learning job ended, or at once if `now`.
    """
    try:
        version = serving(store)
    except UnknownError:
        return Look(reason="no version serves yet: the model is being loaded")
    played = live_episodes(store, version.name, since)
    wanted = config.learn.every_episodes
    if not now and not wanted:
        return Look(reason="learn.every_episodes is 0: learning starts by the clock or by hand")
    if not now and played < wanted:
        return Look(reason=f"the next learning job comes after {wanted - played} more episodes of {version.name}")
    jobs = _jobs_on(store)
    choice = choose_target(success_rates(store, version.name), environments, refusals(jobs))
    if choice.target is None:
        return Look(fruitless=True, reason=choice.reason)
    job = _queue(store, config, choice.target, _start(store, choice.target, jobs))
    record_event(store, "learning", f"job {job}", choice.reason)
    return Look(job=job, reason=choice.reason)


def _queue(store: Store, config: Config, target: str, start: str | None) -> int:
    order = LearnOrder(learner=config.learn.learner, options=config.learner_options(), profile=config.gate.profile, start=start)
    return add_job(store, f"schedule-{uuid4()}", [target], order)


def _start(store: Store, target: str, jobs: list[Job]) -> str | None:
    """The candidate to continue training from, if it still is a candidate."""
    start = start_for(target, jobs)
    return start if start and get_version(store, start).state == "candidate" else None


def _jobs_on(store: Store) -> list[Job]:
    """The jobs since the serving version began to serve, the newest first."""
    began = moves(store)[-1].moved
    return [job for job in list_jobs(store, LATEST_JOBS) if job.created >= began]
