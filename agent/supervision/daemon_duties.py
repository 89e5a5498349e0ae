"""What only a daemon does: it queues tasks and learning jobs, watches live play and the disk, and reports how the run stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from perdure.agent.config import Config
from perdure.agent.confinement_report import unconfined
from perdure.agent.planning.life_so_far import may_promote
from perdure.agent.stream.feeding import StreamFeed
from perdure.agent.supervision.alarms import Alarms
from perdure.agent.supervision.disk import DiskGauge, DiskLack
from perdure.agent.supervision.halts import Halts, halts
from perdure.agent.supervision.keepers import JobKeeper, StandingKeeper
from perdure.agent.supervision.learning_jobs import ScheduledLearning
from perdure.agent.supervision.limits import FAILED, Limits, Outcome, Tally
from perdure.agent.supervision.reporting import Reporter
from perdure.agent.supervision.ticker import Tick
from perdure.agent.telemetry.notifier import Notifier
from perdure.agent.telemetry.spans import SpanSender
from perdure.agent.watching.live_watch import LiveWatch
from perdure.memory import tasks
from perdure.memory.contracts.orders import Job
from perdure.memory.jobs import ENDED
from perdure.memory.processes import CONFINED, pauses
from perdure.memory.store import Store


class DaemonDuties:
    """The duties of a daemon beside its children, which the supervisor calls when they are due. What happens is counted in `tally`."""

    def __init__(
        self,
        store: Store,
        config: Config,
        limits: Limits,
        tally: Tally,
        feed: StreamFeed,
        *,
        actor: StandingKeeper,
        servers: Sequence[StandingKeeper],
        jobs: JobKeeper,
    ) -> None:
        self.halted = Halts()
        """What was paused, or had no room, at the last look."""
        self._lack = DiskLack()
        self._store = store
        self._hang_s = config.supervise.hang_s
        self._confinement = unconfined(config) or CONFINED  # tried in a child, before this process has threads
        self._limits = limits
        self._tally = tally
        self._feed = feed
        self._learning = ScheduledLearning(store, config, feed.environments, tally, limits.tries)
        self._alarms = Alarms(store, config.schedule)
        self._watch = LiveWatch(store, config.play.temperature)
        self._disk = DiskGauge(store.home, config.disk)
        self._reporter = Reporter(store, actor, servers, jobs)
        self._notifier = Notifier(store, config.notify)
        self._spans = SpanSender(store.home, config.telemetry)
        self._tasks_before = _tasks_ended(store)

    def actions(self) -> dict[Tick, Callable[[], None]]:
        """What is done at which tick."""
        return {
            "pauses": self._look_at_pauses,
            "stream": self._refill,
            "learning": self._queue_learning,
            "watch": self._watch.tick,
            "notify": self._notifier.look,
            "beat": self._beat,
        }

    def count(self, job: Job) -> None:
        """Take note of a job whose process has ended."""
        if may_promote(job) and job.state in ENDED:
            self._learning.count(job)
            self._notifier.job_ended(job)

    def look_at_halts(self) -> None:
        """See what is paused, and what there is no room for."""
        before, self._lack = self._lack, self._disk.look()
        self.halted = halts(self._lack, pauses(self._store))
        self._notifier.room_changed(before, self._lack)
        self._reporter.room_changed(before, self._lack)

    def _look_at_pauses(self) -> None:
        """More often than at the room: who presses a button waits for it."""
        self.halted = halts(self._lack, pauses(self._store))

    def report_start(self) -> None:
        self._spans.start()
        self._reporter.started(self._hang_s, self._confinement)

    def report_stopping(self) -> None:
        self._reporter.stopping()

    def report_end(self, ended: Outcome) -> None:
        """Write down how the run ended, and send what is still to be sent."""
        try:
            self._reporter.ended(ended.reason, given_up=ended.code == FAILED)
        finally:
            self._spans.close()
            self._notifier.close()

    def _refill(self) -> None:
        most = None
        if self._limits.tasks is not None:
            now = tasks.counts(self._store)
            self._tally.tasks = now["done"] + now["failed"] - self._tasks_before
            most = self._limits.tasks - self._tally.tasks - now["queued"] - now["running"]
        self._feed.refill(self._store, most)

    def _queue_learning(self) -> None:
        if self._learning.tick(played_out=self._played_out(), halted=self.halted.learn, now=self._alarms.due()):
            self._alarms.served()

    def _beat(self) -> None:
        self.look_at_halts()
        self._reporter.beat(self.halted, played_out=self._played_out(), no_learning=self._learning.why)

    def _played_out(self) -> bool:
        """Whether the stream has ended and all its tasks are played."""
        return self._feed.ended and not tasks.anything_to_play(self._store)


def _tasks_ended(store: Store) -> int:
    now = tasks.counts(store)
    return now["done"] + now["failed"]
