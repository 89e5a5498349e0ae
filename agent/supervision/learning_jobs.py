"""Learning by schedule: when a job is queued, what is counted about how jobs end, and when learning is given up.

Left out: the choice of a target (`planner.py`), and running the job (`keepers.py`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import uuid4

from perdure.agent.config import Config
from perdure.agent.supervision.limits import Tally
from perdure.agent.supervision.planner import choose_target, refusals, start_for
from perdure.memory.contracts.orders import Job, LearnOrder
from perdure.memory.errors import UnknownError
from perdure.memory.jobs import add_job, list_jobs, unfinished_jobs
from perdure.memory.processes import record_event
from perdure.memory.store import Store
from perdure.memory.trajectories.episodes import live_episodes, success_rates
from perdure.memory.versions import get_version, moves, serving

LATEST_JOBS = 200


class ScheduledLearning:
    """Queues one learning job at a time, and counts in the tally of the run how each job ended."""

    def __init__(self, store: Store, config: Config, environments: tuple[str, ...], tally: Tally, tries: int) -> None:
        self.why = ""
        """Why nothing is being learned now."""
        self._store = store
        self._config = config
        self._environments = environments
        self._tally = tally
        self._tries = tries
        self._fruitless_at = 0.0

    def tick(self, *, played_out: bool, lack: str | None, now: bool = False) -> None:
        """Queue a job if it is time, unless one is waiting already.

        `played_out`: all is played and no task will come any more. `lack`: why there is no room to learn; None if there is.
        """
        if unfinished_jobs(self._store):
            return
        played_out = played_out and not self._config.schedule.by_the_clock
        self.why = self._obstacle(lack)
        if self.why:
            self._tally.played_out = played_out and lack is None
            return
        check = queue_job_if_due(self._store, self._config, self._environments, since=self._fruitless_at, now=now)
        self.why = check.reason
        self._tally.played_out = played_out and check.job is None
        if check.fruitless:
            self._fruitless_at = time.time()
            self._tally.fruitless += 1
            self._tally.last = check.reason
            record_event(self._store, "no learning", "planner", check.reason)
        elif check.job is not None:
            self._tally.fruitless = 0

    def count(self, job: Job) -> None:
        """Count a learning job that is done or has failed."""
        if job.state == "failed":
            self._tally.failures += 1
            self._tally.last = job.error or "no reason was given"
            if self._tally.failures == self._tries:
                record_event(self._store, "given up", "learning", self._obstacle(None))
        else:
            self._tally.failures = 0
        if job.gate is not None:
            self._tally.verdicts += 1
            self._tally.last = f"{job.gate.verdict}, {job.gate.reason}"
            if job.gate.verdict == "promote":
                self._tally.promoted = self._tally.promoted or job.candidate
            record_event(self._store, "verdict", f"job {job.id}", f"{job.candidate}: {self._tally.last}")

    def _obstacle(self, lack: str | None) -> str:
        """Why no job may be queued, whatever there is to learn; empty if one may."""
        if lack is not None:
            return f"learning waits for room: {lack}"
        if self._tally.failures >= self._tries:
            return (
                f"learning is given up after {self._tally.failures} jobs that failed in a row, the last: {self._tally.last}; "
                "`perdure learn` tries again, and so does the next `perdure run`"
            )
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCheck:
    """The result of `queue_job_if_due`."""

    job: int | None = None
    """The job that was queued."""
    fruitless: bool = False
    """It was time to learn, but nothing is learnable."""
    reason: str
    """Why a job was queued, or why not."""


def queue_job_if_due(store: Store, config: Config, environments: tuple[str, ...], *, since: float, now: bool = False) -> LearningCheck:
    """Queue a learning job if it is time for one and something is learnable.

    It is time after `learn.every_episodes` live episodes of the serving version that began after `since` (Unix seconds, of the last
    fruitless check) and after the last learning job ended, or at once if `now`.
    """
    try:
        version = serving(store)
    except UnknownError:
        return LearningCheck(reason="no version serves yet: the model is being loaded")
    played = live_episodes(store, version.name, since)
    wanted = config.learn.every_episodes
    if not now and not wanted:
        return LearningCheck(reason="learn.every_episodes is 0: learning starts by the clock or by hand")
    if not now and played < wanted:
        return LearningCheck(reason=f"the next learning job comes after {wanted - played} more episodes of {version.name}")
    jobs = _jobs_on(store)
    choice = choose_target(success_rates(store, version.name), environments, refusals(jobs))
    if choice.target is None:
        return LearningCheck(fruitless=True, reason=choice.reason)
    job = _queue(store, config, choice.target, _start(store, choice.target, jobs))
    record_event(store, "learning", f"job {job}", choice.reason)
    return LearningCheck(job=job, reason=choice.reason)


def _queue(store: Store, config: Config, target: str, start: str | None) -> int:
    learner = config.learn.learner
    order = LearnOrder(learner=learner, options=config.learner_options(learner), profile=config.gate.profile, start=start)
    return add_job(store, f"schedule-{uuid4()}", [target], order)


def _start(store: Store, target: str, jobs: list[Job]) -> str | None:
    """The candidate to continue training from, if it still is a candidate."""
    start = start_for(target, jobs)
    return start if start and get_version(store, start).state == "candidate" else None


def _jobs_on(store: Store) -> list[Job]:
    """The jobs since the serving version began to serve, the newest first."""
    began = moves(store)[-1].moved
    return [job for job in list_jobs(store, LATEST_JOBS) if job.created >= began]
