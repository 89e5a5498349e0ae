"""The supervisor: one process that holds the home, owns the clock, and starts and watches the others. It never loads a model.

    actor      plays live tasks all the time; when it dies it is started again with back-off, and given up where that does not help
    vllm       where the engine is vLLM: its server, kept in the same way; what samples waits for it
    learner    one for each job, one at a time; when it dies play goes on, and the job is tried again or failed, as its cause of death says

State passes only through the database. Everything happens in one thread, in `run`; signals and the ticker (`schedule.py`) only say that
something is due. Left out: what to learn (`planner.py`), what ends a run (`limits.py`), why a process died (`causes.py`), whether it goes
on (`watch.py`), what is done about it (`keepers.py`), where there is room (`disk.py`), how all of it stands (`condition.py`), and showing
any of it (`view.py`).
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from perdure.agent.config_file import LoadedConfig
from perdure.agent.home import HomeLock
from perdure.agent.processes.installed_vllm import require_vllm
from perdure.agent.processes.names import ACTOR, VLLM
from perdure.agent.show.terminal import visible
from perdure.agent.stream.drawing import begun, refill, stages_of
from perdure.agent.stream.registering import register_environments
from perdure.agent.supervision.aftermath import requeue_tasks
from perdure.agent.supervision.children import on_signals, stop
from perdure.agent.supervision.condition import condition, plays
from perdure.agent.supervision.disk import DiskGauge, Room
from perdure.agent.supervision.keepers import GRACE_S, JobKeeper, StandingKeeper, forget_steps
from perdure.agent.supervision.limits import Limits, Outcome, Tally, outcome
from perdure.agent.supervision.planner import verdict
from perdure.agent.supervision.schedule import Tick, look, start_ticker
from perdure.agent.supervision.systemd import Systemd
from perdure.agent.supervision.watch import Watched
from perdure.envs.environment import Environment
from perdure.envs.sandbox.sandbox_loading import without_process
from perdure.memory import tasks
from perdure.memory.errors import PerdureError
from perdure.memory.jobs import ENDED, unfinished_jobs
from perdure.memory.leases import lapse
from perdure.memory.processes import beat, record_event
from perdure.memory.records import Job
from perdure.memory.replay.journal import abort_orphans
from perdure.memory.stages import Stage, progress, set_stages
from perdure.memory.store import Store, checkpoint, create_store, set_patience

PATIENCE_MS = 2000
LAST_PATIENCE_MS = 500
"""How long a write of the supervisor waits for another program's: while the next tick tries again, and once it is to stop."""

WATCH_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The modules that are run as children."""

    actor: str = "perdure.agent.processes.actor"
    learner: str = "perdure.agent.processes.job"
    vllm: str = "perdure.agent.processes.vllm_server"


@contextmanager
def supervising(home: Path, loaded: LoadedConfig, limits: Limits, programs: Programs = Programs()) -> Iterator[Supervisor]:
    """Take the home, bring its store to the present schema and put what a crash has left in order.

    Raises `InputError` where another process has the home or the configuration names what is not there, `RuntimeFailure` where the
    home cannot be written.
    """
    config = loaded.config
    require_vllm(config)
    environments = {name: without_process(found) for name, found in config.environments(config.stream.names).items()}
    stages = stages_of(config, {name: environment.name for name, environment in environments.items()})
    critical = {environments[name].name for name in config.gate.critical}
    known = {one.name: (one, one.name in critical) for one in environments.values()}
    with HomeLock(home), create_store(home) as store:
        set_stages(store, stages)
        for stage in begun(stages, progress(store)):
            _register(store, [known[share.name] for share in stage.environments])
        lapse(store)
        abort_orphans(store)
        forget_steps(store)
        set_patience(store, PATIENCE_MS)
        yield Supervisor(store, loaded, stages, known, limits, programs)


class Supervisor:
    """The loop. `run` returns when a limit is reached or a signal came; by then all children have ended."""

    def __init__(
        self,
        store: Store,
        loaded: LoadedConfig,
        stages: Sequence[Stage],
        environments: Mapping[str, tuple[Environment, bool]],
        limits: Limits,
        programs: Programs,
    ) -> None:
        self.store = store
        self._config = loaded.config
        self._stages = stages
        self._environments = environments
        """Those of all stages, by canonical name, each with whether it is critical."""
        self._stream_ended = False
        """Every stage has drawn all its tasks."""
        self._limits = limits
        self._tally = Tally()
        self._tasks_before = _tasks_ended(store)
        self._due: queue.SimpleQueue[Tick] = queue.SimpleQueue()
        self._signals = 0
        self._outcome: Outcome | None = None
        arguments = ["--home", str(store.home), *(["--config", str(loaded.path)] if loaded.path else [])]
        hang_s = loaded.config.supervise.hang_s
        self._actor = StandingKeeper(store, ACTOR, programs.actor, arguments, hang_s, limits.tries)
        self._server = (
            StandingKeeper(store, VLLM, programs.vllm, arguments, hang_s, limits.tries) if self._config.engine == "vllm" else None
        )
        self._jobs = JobKeeper(store, programs.learner, arguments, hang_s)
        self._disk = DiskGauge(store.home, loaded.config.disk)
        self._room = Room()
        self._systemd = Systemd(os.environ)
        self._progress_s = 0.0
        """The latest progress that systemd was told of."""
        self._fruitless_at = 0.0
        self._why = ""
        """Why nothing is being learnt right now."""
        self._trouble: dict[str, str] = {}
        """What fails again and again, by what was tried."""

    def run(self) -> Outcome:
        """Supervise until the end. A second signal ends the children at once."""
        record_event(self.store, "start", "supervisor", f"process {os.getpid()}")
        self._check_watchdog()
        with on_signals(self._signalled):
            ticker = start_ticker(self._config.schedule, self._due.put)
            try:
                self._try("disk", Supervisor._look_at_disk)
                while self._outcome is None:
                    for what, action in [*self._ticks(), *_WATCHING]:
                        if self._outcome is None:
                            self._try(what, action)
                    self._outcome = self._outcome or outcome(self._limits, self._tally)
            finally:
                ticker.shutdown(wait=False)
                self._stop_children()
            self._try("saying goodbye", Supervisor._say_goodbye)
        return self._outcome

    def _ticks(self) -> list[tuple[str, Action]]:
        """What has become due, each once; waits a little."""
        found: dict[Tick, None] = {}
        try:
            found[self._due.get(timeout=WATCH_S)] = None
            while True:
                found[self._due.get_nowait()] = None
        except queue.Empty:
            return [(tick, _ACTIONS[tick]) for tick in found]

    def _try(self, what: str, action: Action) -> None:
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
        self._stream_ended = refill(
            self.store,
            self._stages,
            per_environment=self._config.stream.tasks_per_round,
            root=self._config.seed,
            room=room,
            begin=lambda stage: _register(self.store, [self._environments[share.name] for share in stage.environments]),
        ).ended

    def _watch_standing(self) -> None:
        if self._server is not None:
            self._server.tick(wanted=True)
        self._actor.tick(wanted=self._room.play is None)
        standing = [self._server, self._actor] if self._server is not None else [self._actor]
        worst = max(standing, key=lambda keeper: keeper.deaths)
        self._tally.dying = "vLLM server" if worst is self._server else "actor"
        self._tally.deaths, self._tally.death = worst.deaths, worst.death
        refused = [keeper.refused for keeper in standing if keeper.refused is not None]
        if refused:
            self._outcome = Outcome(code=2, reason=refused[0])

    def _learn(self, now: bool = False) -> None:
        """Queue a learning job where it is time, unless some job is waiting already."""
        if unfinished_jobs(self.store):
            return
        played_out = self._played_out() and not self._config.schedule.by_the_clock
        self._why = self._no_learning()
        if self._why:
            self._tally.played_out = played_out and self._room.learn is None
            return
        found = look(self.store, self._config, tuple(self._environments), since=self._fruitless_at, now=now)
        self._why = found.reason
        self._tally.played_out = played_out and found.job is None
        if found.fruitless:
            self._fruitless_at = time.time()
            self._tally.fruitless += 1
            self._tally.last = found.reason
            record_event(self.store, "no learning", "planner", found.reason)
        elif found.job is not None:
            self._tally.fruitless = 0

    def _played_out(self) -> bool:
        """Whether the stream has come to its end, and all that was asked for is played."""
        return self._stream_ended and not tasks.anything_to_play(self.store)

    def _no_learning(self) -> str:
        """Why no learning job is queued, whatever there is to learn; empty where one may be."""
        if self._room.learn is not None:
            return f"learning waits for room: {self._room.learn}"
        if self._tally.failures >= self._limits.tries:
            return (
                f"learning is given up after {self._tally.failures} jobs that failed in a row, the last: {self._tally.last}; "
                "`perdure learn` tries again, and so does the next `perdure run`"
            )
        return ""

    def _watch_jobs(self) -> None:
        if self._jobs.watched is None:
            waiting = unfinished_jobs(self.store)
            if waiting and self._room.learn is None:
                self._jobs.start(waiting[0])
            return
        if self._room.play is not None:
            self._jobs.watched.ask_to_end(GRACE_S)
        ended = self._jobs.poll()
        if ended is not None and ended.kind == "learn" and ended.state in ENDED:
            self._count(ended)

    def _count(self, job: Job) -> None:
        found = verdict(job)
        if job.state == "failed":
            self._tally.failures += 1
            self._tally.last = job.error or "no reason was written down"
            if self._tally.failures == self._limits.tries:
                record_event(self.store, "given up", "learning", self._no_learning())
        else:
            self._tally.failures = 0
        if found is not None:
            self._tally.verdicts += 1
            self._tally.last = told = f"{found}, {(job.result or {}).get('reason', '')}"
            if found == "promote":
                self._tally.promoted = self._tally.promoted or job.candidate
            record_event(self.store, "verdict", f"job {job.id}", f"{job.candidate}: {told}")

    def _check_watchdog(self) -> None:
        patience_s, hang_s = self._systemd.watchdog_s, self._config.supervise.hang_s
        if patience_s is not None and patience_s <= hang_s:
            message = (
                f"WatchdogSec is {patience_s:g} s and supervise.hang_s is {hang_s}: make the first one longer, or a slow round ends it all"
            )
            record_event(self.store, "warning", "systemd", message)

    def _look_at_disk(self) -> None:
        before, self._room = self._room, self._disk.look()
        for what, was, lack in (("learning", before.learn, self._room.learn), ("play", before.play, self._room.play)):
            if (was is None) != (lack is None):
                record_event(self.store, "disk", what, f"it waits for room: {lack}" if lack else "there is room again")

    def _tidy(self) -> None:
        checkpoint(self.store)
        for watched in [*self._children(), *([self._server.watched] if self._server and self._server.watched else [])]:
            watched.child.trim_log()

    def _beat(self) -> None:
        self._look_at_disk()
        state, why = condition(
            self.store, self._server, self._actor, self._jobs, self._room, played_out=self._played_out(), no_learning=self._why
        )
        beat(self.store, "supervisor", os.getpid(), state, why)
        self._systemd.status(f"{state}: {why}" if why else state)
        if state == "paused" or plays(self._actor):
            self._systemd.ready()
        if self._goes_on():
            self._systemd.alive()

    def _goes_on(self) -> bool:
        """Whether work went on since the last time that it did; or rightly waits, for room or for the end of a back-off."""
        working = self._jobs.watched or self._actor.watched  # while a job works, an actor that pauses for it proves nothing
        if working is None:
            return True
        if working.progress_s <= self._progress_s:
            return False
        self._progress_s = working.progress_s
        return True

    def _children(self) -> list[Watched]:
        """Those that sample; the server that they sample from ends after them."""
        return [watched for watched in (self._actor.watched, self._jobs.watched) if watched is not None]

    def _signalled(self) -> None:
        self._signals += 1
        self._outcome = self._outcome or Outcome(code=0, reason="stopped by a signal")

    def _stop_children(self) -> None:
        """End them, and give back what they could not give back themselves."""
        self._systemd.stopping()
        set_patience(self.store, LAST_PATIENCE_MS)
        signals = self._signals
        for children in (self._children(), [self._server.watched] if self._server and self._server.watched else []):
            stop([watched.child for watched in children], GRACE_S, hurry=lambda: self._signals > max(signals, 1))
        self._try("giving back what was being done", Supervisor._put_in_order)  # what that cannot do, the next start does

    def _put_in_order(self) -> None:
        with self.store.write():
            self._jobs.give_back()
            for watched in self._children():
                requeue_tasks(self.store, watched.owner)
                lapse(self.store, watched.owner)
            abort_orphans(self.store)
        checkpoint(self.store)

    def _say_goodbye(self) -> None:
        assert self._outcome is not None
        record_event(self.store, "end", "supervisor", self._outcome.reason)
        beat(self.store, "supervisor", os.getpid(), "stopped", self._outcome.reason)


Action = Callable[[Supervisor], None]

_ACTIONS: dict[Tick, Action] = {
    "stream": Supervisor._refill,
    "learning": Supervisor._learn,
    "learning by the clock": lambda supervisor: supervisor._learn(now=True),
    "beat": Supervisor._beat,
    "checkpoint": Supervisor._tidy,
}
_WATCHING: tuple[tuple[str, Action], ...] = (
    ("watching the actor", Supervisor._watch_standing),
    ("watching the jobs", Supervisor._watch_jobs),
)


def _register(store: Store, environments: Sequence[tuple[Environment, bool]]) -> None:
    """Make environments, each with whether it is critical, known, all or none.

    Those of a stage become known when it begins: what a home knows is replayed and judged, and a later stage is to come as something new.
    """
    register_environments(store, [one for one, _ in environments], [one.name for one, critical in environments if critical])


def _tasks_ended(store: Store) -> int:
    now = tasks.counts(store)
    return now["done"] + now["failed"]
