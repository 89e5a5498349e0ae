"""Learning by schedule: when the planner is asked, what it queues, what is counted about how jobs end, and when learning is given up.

Left out: what is learned next (`agent/planning/next_step.py`), and running the job (`keepers.py`).
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from uuid import uuid4

from perdure.agent.config import Config
from perdure.agent.planning.life_from_store import LOOK, QUEUED, read_life
from perdure.agent.planning.next_step import next_step
from perdure.agent.planning.panel_care import GENERAL
from perdure.agent.planning.step_kinds import GateNext, LearnNext, NextStep, NothingNext
from perdure.agent.supervision.limits import Tally
from perdure.learners.option_parsing import every_option
from perdure.memory.contracts.orders import GateOrder, Job, LearnOrder, OptionValue
from perdure.memory.errors import UnknownError
from perdure.memory.jobs import add_job, last_ended, unfinished_jobs
from perdure.memory.processes import GIVEN_UP, GOES_ON, keep_latest_events, last_event, record_event
from perdure.memory.store import Store
from perdure.memory.trajectories.episodes import live_episodes
from perdure.memory.versions import serving

LOOKS_KEPT = 200
"""Looks that found nothing, of which a quick model has one every other second: the planner's patience is at its end long before."""
UNFOLLOWED = "nothing follows"
"""The kind of event that says why nothing follows a verdict."""


class ScheduledLearning:
    """Queues one job at a time, and counts in the tally of the run how each ended."""

    def __init__(self, store: Store, config: Config, environments: tuple[str, ...], tally: Tally, tries: int) -> None:
        self.why = ""
        """Why nothing is being learned now."""
        self._store = store
        self._config = config
        self._environments = environments
        self._tally = tally
        self._tries = tries
        self._fruitless_at = 0.0
        self._nothing = ""
        """Why the last look found nothing to learn, until something is queued."""
        self._looked_after = -1
        """The last job that had ended when the planner was last asked whether a gate follows."""

    def tick(self, *, played_out: bool, halted: str | None, now: bool = False) -> bool:
        """Queue a job if it is time, unless one is waiting already. Gives whether it was time and the planner was asked.

        `played_out`: all is played and no task will come any more. `halted`: why no job may be begun; None if one may.
        """
        if unfinished_jobs(self._store):
            return False
        played_out = played_out and not self._config.schedule.by_the_clock
        self.why = self._obstacle(halted)
        if self.why:
            self._tally.played_out = played_out and halted is None
            return False
        ended = last_ended(self._store)
        check = queue_job_if_due(
            self._store, self._config, self._environments, since=self._fruitless_at, now=now, news=ended != self._looked_after
        )
        self._looked_after = ended
        self._tally.played_out = played_out and check.job is None
        if check.fruitless:
            self._fruitless_at = time.time()
            self._tally.fruitless += 1
            self._tally.last = self._nothing = check.reason
            record_event(self._store, LOOK, "planner", check.reason)
            keep_latest_events(self._store, LOOK, LOOKS_KEPT)
        elif check.job is not None:
            self._tally.fruitless = 0
            self._nothing = ""
        self.why = f"{self._nothing}; {check.reason}" if self._nothing and not check.fruitless else check.reason
        return check.fruitless or check.job is not None

    def count(self, job: Job) -> None:
        """Count a job that was to lead to a promotion and is done or has failed."""
        if job.cancelled:
            return
        if job.state == "failed" and not job.found_nothing:
            self._tally.failures += 1
            self._tally.last = job.error or "no reason was given"
            if self._tally.failures == self._tries:
                record_event(self._store, GIVEN_UP, "learning", self._obstacle(None))
        else:
            if self._tally.failures >= self._tries:
                record_event(self._store, GOES_ON, "learning", f"job {job.id} did not fail")
            self._tally.failures = 0
        if job.gate is not None:
            self._tally.verdicts += 1
            self._tally.last = f"{job.gate.verdict}, {job.gate.reason}"
            if job.gate.verdict == "promote":
                self._tally.promoted = self._tally.promoted or job.candidate
            record_event(self._store, "verdict", f"job {job.id}", f"{job.candidate}: {self._tally.last}")

    def _obstacle(self, halted: str | None) -> str:
        """Why no job may be queued, whatever there is to learn; empty if one may."""
        if halted is not None:
            return halted
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


def queue_job_if_due(
    store: Store, config: Config, environments: Collection[str], *, since: float, now: bool = False, news: bool = True
) -> LearningCheck:
    """Queue what the planner says, if it is time for it.

    It is time to learn after `learn.every_episodes` live episodes of the serving version that began after `since` (Unix seconds, of the
    last fruitless check) and after the last learning job ended, or at once if `now`. A gate that follows a verdict needs no new episodes:
    it is queued at once, unless learning by schedule is off. `news`: whether a job has ended since the last check.
    """
    try:
        version = serving(store)
    except UnknownError:
        return LearningCheck(reason="no version serves yet: the model is being loaded")
    wanted = config.learn.every_episodes
    if not now and not wanted and not config.schedule.by_the_clock:
        return LearningCheck(reason="learn.every_episodes is 0: learning starts by the clock or by hand")
    played = live_episodes(store, version.name, since)
    due = now or (wanted > 0 and played >= wanted)
    if due or news:
        step = planned(store, environments)
        if due or isinstance(step, GateNext):
            return _queue(store, config, step)
    if not wanted:
        return LearningCheck(reason="learn.every_episodes is 0: learning starts by the clock or by hand")
    return LearningCheck(reason=f"the next learning job comes after {wanted - played} more episodes of {version.name}")


def planned(store: Store, environments: Collection[str] | None = None) -> NextStep:
    """What the planner says now. `environments` are those of the stream; None: of the last daemon's."""
    life = read_life(store, environments)
    return NothingNext(why="no version serves yet: the model is being loaded") if life is None else next_step(life)


def _queue(store: Store, config: Config, step: NextStep) -> LearningCheck:
    key, profile = f"schedule-{uuid4()}", config.gate.profile
    match step:
        case NothingNext():
            _say_unfollowed(store, step.unfollowed)
            return LearningCheck(fruitless=True, reason=step.why)
        case GateNext():
            order = GateOrder(candidate=step.candidate, profile=profile, leads_to="promotion", why=step.why, follows=step.follows)
            job = add_job(store, key, step.targets, order)
            record_event(store, "gate again", f"job {job}", step.why)
        case LearnNext():
            _say_unfollowed(store, step.unfollowed)
            job = add_job(store, key, step.targets, learn_order(config, step))
            record_event(store, QUEUED, f"job {job}", step.why)
    return LearningCheck(job=job, reason=step.why)


def learn_order(config: Config, step: LearnNext) -> LearnOrder:
    """The order of a planned learning job."""
    learner = step.learner or config.learn.learner
    return LearnOrder(
        learner=learner,
        options=config.learner_options(learner, step_options(config, step)),
        profile=config.gate.profile,
        start=step.start,
        why=step.why,
        aim=step.aim,
        follows=step.follows,
    )


def step_options(config: Config, step: LearnNext) -> dict[str, OptionValue]:
    """The options of a planned learning job that differ from the home's. What the capability panel asks for comes on top: `kl_old` is
    raised from what is set, or from the default if that is less, and general prompts are as they are set, if they are. They need replay."""
    asked: dict[str, OptionValue] = {}
    own = every_option({**config.learn.options, **step.options})
    if step.care.why is not None and own["replay"] and not own["general"]:
        asked = dict(GENERAL)
    if step.care.factor > 1:
        weights = [float(every_option(given)["kl_old"]) for given in (config.learn.options, {})]
        asked["kl_old"] = step.care.factor * max(weights)
    return {**step.options, **asked}


def _say_unfollowed(store: Store, why: str | None) -> None:
    """Record once why nothing follows the last verdict."""
    last = last_event(store, UNFOLLOWED)
    if why is not None and (last is None or last.message != why):
        record_event(store, UNFOLLOWED, "planner", why)
