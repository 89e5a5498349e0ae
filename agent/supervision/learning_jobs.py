"""Learning by schedule: when a job is queued, what is counted about how jobs end, and when learning is given up.

Left out: whether it is time, and for which target (`ticker.py`, `planner.py`); running the job (`keepers.py`).
"""

from __future__ import annotations

import time

from perdure.agent.config import Config
from perdure.agent.supervision.limits import Tally
from perdure.agent.supervision.ticker import look
from perdure.memory.contracts.orders import Job
from perdure.memory.jobs import unfinished_jobs
from perdure.memory.processes import record_event
from perdure.memory.store import Store


class ScheduledLearning:
    """Queues one learning job at a time, and counts into the tally of the run what became of it."""

    def __init__(self, store: Store, config: Config, environments: tuple[str, ...], tally: Tally, tries: int) -> None:
        self.why = ""
        """Why nothing is being learned now."""
        self._store = store
        self._config = config
        self._environments = environments
        self._tally = tally
        self._tries = tries
        self._fruitless_at = 0.0

    def queue_if_due(self, *, played_out: bool, lack: str | None, now: bool = False) -> None:
        """Queue a job if it is time, unless one is waiting already.

        `played_out`: all is played and no task will come any more. `lack`: why there is no room, if there is none.
        """
        if unfinished_jobs(self._store):
            return
        played_out = played_out and not self._config.schedule.by_the_clock
        self.why = self._obstacle(lack)
        if self.why:
            self._tally.played_out = played_out and lack is None
            return
        looked = look(self._store, self._config, self._environments, since=self._fruitless_at, now=now)
        self.why = looked.reason
        self._tally.played_out = played_out and looked.job is None
        if looked.fruitless:
            self._fruitless_at = time.time()
            self._tally.fruitless += 1
            self._tally.last = looked.reason
            record_event(self._store, "no learning", "planner", looked.reason)
        elif looked.job is not None:
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
        judged = job.verdict
        if judged is not None:
            self._tally.verdicts += 1
            self._tally.last = f"{judged}, {job.gate.reason if job.gate else ''}"
            if judged == "promote":
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
