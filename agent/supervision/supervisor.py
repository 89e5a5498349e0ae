"""The supervisor: one process that holds the home, and starts and watches the others. It never loads a model.

    actor      plays live tasks all the time; when it dies it is started again with back-off, and given up if that does not help
    web        the page and the API; it may die, and is started again for as long as the daemon runs
    vllm       if the engine is vLLM: its server, treated in the same way; actor and jobs wait for it. With several cards there may be
               several (vllm-2, vllm-3 ...): one that dies is started again, and the others serve meanwhile
    journal    writes for the players of other machines; only with a cluster, and treated as the page is
    cluster    joins the cluster and keeps players placed there; likewise
    learner    one for each job, one at a time; when it dies play goes on, and the job is tried again or failed, as its cause of death says

A daemon (`perdure run`) has all of them and more duties (`daemon_duties.py`). A command that runs one job in a home without a daemon has
no actor, and ends with its job. State passes only through the database. Everything happens in one thread, in `run`; signals and the ticker
(`ticker.py`) only say that something is due. Left out: what ends a run (`limits.py`), why a process died (`causes.py`), whether it makes
progress (`watch.py`), what is done about it (`keepers.py`), and showing any of it (`agent/show/`).
"""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from perdure.agent.cluster.cluster_packages import lacks_cluster_packages, require_cluster
from perdure.agent.config_file import LoadedConfig
from perdure.agent.home import HomeLock
from perdure.agent.own_model import require_own_model, require_room
from perdure.agent.processes.process_names import ACTOR, CLUSTER, JOURNAL, PLAYER_PREFIX, SUPERVISOR, WEB
from perdure.agent.processes.vllm.cards import require_cards, seen
from perdure.agent.processes.vllm.installed_vllm import require_vllm
from perdure.agent.show.terminal import visible
from perdure.agent.stream.feeding import StreamFeed
from perdure.agent.stream.own_stream import require_own_stream
from perdure.agent.supervision.abandoned_work import requeue_tasks
from perdure.agent.supervision.children import end_children, on_signals
from perdure.agent.supervision.daemon_duties import DaemonDuties
from perdure.agent.supervision.halts import Halts
from perdure.agent.supervision.keepers import GRACE_S, JobKeeper, SideKeeper, StandingKeeper, delete_step_weights
from perdure.agent.supervision.limits import Limits, Outcome, Tally, outcome
from perdure.agent.supervision.ticker import Tick, start_ticker
from perdure.agent.supervision.watch import Watched
from perdure.agent.telemetry.requirements import require_telemetry
from perdure.agent.web_conditions import lacks_packages, require_token_beyond_loopback
from perdure.learners.engines.vllm_client import server_name
from perdure.memory.contracts.orders import Job
from perdure.memory.errors import PerdureError
from perdure.memory.jobs import ENDED, get_job, unfinished_jobs
from perdure.memory.leases import BootClock, end_all_leases, end_leases_of
from perdure.memory.processes import forget_processes, record_event
from perdure.memory.store import Store, checkpoint, create_store, set_busy_timeout
from perdure.memory.tasks import requeue_lapsed
from perdure.memory.trajectories.journal import abort_orphans

PATIENCE_MS = 2000
LAST_PATIENCE_MS = 500
"""How long a write waits for a lock on the store: normally (the next tick tries again), and while shutting down."""

CLUSTER_GRACE_S = 12.0
"""Instead of `GRACE_S`, if players elsewhere have to be ended too."""

HUNG_UP = "its terminal or connection closed (SIGHUP); nohup, tmux or a service manager keeps a run alive"

WATCH_S = 0.1
"""How often the loop looks at the children; a tick or a signal is seen at least as soon."""

Action = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The modules that are run as children."""

    actor: str | None = "perdure.agent.processes.actor"
    """None: this is no daemon. Nothing plays, the stream is left alone, and one job is run."""
    learner: str = "perdure.agent.processes.job"
    vllm: str = "perdure.agent.processes.vllm.vllm_server"
    web: str | None = "perdure.agent.web.program"
    """None: nothing is served. Only a daemon serves, and only with `web.enabled`."""
    journal: str = "perdure.agent.cluster.journal.journal_server"
    cluster: str = "perdure.agent.cluster.cluster_program"
    """Both only of a daemon with `cluster.address`."""


@contextmanager
def supervising(home: Path, loaded: LoadedConfig, limits: Limits, programs: Programs = Programs()) -> Iterator[Supervisor]:
    """Take the home, bring its store to the present schema, and clean up after a crash. `Supervisor.run` does the rest.

    With an actor the supervisor is a daemon; with `actor=None` it supervises one job, that of the limits.

    Raises `HomeBusy` if another process has the home, `InputError` if the configuration names something that does not exist, and
    `RuntimeFailure` if the home cannot be written.
    """
    require_cards(loaded.config)
    require_vllm(loaded.config)
    if programs.actor is not None and programs.web is not None and loaded.config.web.enabled:
        require_token_beyond_loopback(home, loaded.config.web)
    if programs.actor is not None:
        require_cluster(loaded.config.cluster)
    require_telemetry(loaded.config)
    feed = StreamFeed(loaded.config) if programs.actor is not None else None
    with HomeLock(home), create_store(home) as store:
        require_own_model(store, loaded.config)
        if feed is not None:
            require_own_stream(store, loaded)
            require_room(loaded.config, feed.loaded)
        if feed is not None:
            feed.open(store)
        end_all_leases(store)  # the processes that held them are gone: the lock is ours
        abort_orphans(store)
        delete_step_weights(store)
        for name in (WEB, JOURNAL, CLUSTER, PLAYER_PREFIX):  # of the last daemon, which this one need not have
            forget_processes(store, name, 0)
        set_busy_timeout(store, PATIENCE_MS)
        yield Supervisor(store, loaded, limits, programs, feed)


class Supervisor:
    """The loop. `run` returns when a limit is reached or a signal came; by then all children have ended."""

    def __init__(self, store: Store, loaded: LoadedConfig, limits: Limits, programs: Programs, feed: StreamFeed | None) -> None:
        config = loaded.config
        arguments = ["--home", str(store.home), *(["--config", str(loaded.path)] if loaded.path else [])]

        json_log = config.log.form == "json"

        plays_on = seen(config.devices.engine if config.engine == "transformers" else (), os.environ)

        def server(replica: int) -> StandingKeeper:
            own = [*arguments, *(["--replica", str(replica)] if replica else [])]
            tries = limits.tries if len(config.servers) == 1 else None
            return StandingKeeper(store, server_name(replica), programs.vllm, own, config.supervise.hang_s, tries, json_log=json_log)

        def actor(program: str) -> StandingKeeper:
            return StandingKeeper(
                store, ACTOR, program, arguments, config.supervise.hang_s, limits.tries, json_log=json_log, variables=plays_on
            )

        self.store = store
        self._limits = limits
        self._tally = Tally()
        self._servers = [server(replica) for replica in range(len(config.servers))] if config.engine == "vllm" else []
        self._actor = actor(programs.actor) if programs.actor is not None else None

        def side(name: str, program: str, lack: str | None) -> SideKeeper:
            return SideKeeper(store, name, program, arguments, config.supervise.hang_s, lack, json_log=json_log)

        self._page: SideKeeper | None = None
        if self._actor is not None and programs.web is not None and config.web.enabled:
            self._page = side(WEB, programs.web, lacks_packages())
        self._cluster: list[SideKeeper] = []
        if self._actor is not None and config.cluster.address:
            lack = lacks_cluster_packages()
            self._cluster = [side(JOURNAL, programs.journal, lack), side(CLUSTER, programs.cluster, lack)]
        learns_on = seen(config.devices.learner, os.environ)
        self._jobs = JobKeeper(store, programs.learner, arguments, config.supervise.hang_s, json_log=json_log, variables=learns_on)
        self._duties: DaemonDuties | None = None
        """None if this is no daemon."""
        self._actions: dict[Tick, Action] = {"checkpoint": self._checkpoint}
        if feed is not None and self._actor is not None:
            self._duties = DaemonDuties(store, config, limits, self._tally, feed, actor=self._actor, servers=self._servers, jobs=self._jobs)
            self._actions |= self._duties.actions()
        self._due: queue.SimpleQueue[Tick] = queue.SimpleQueue()
        self._signals = 0
        self._outcome: Outcome | None = None
        self._errors: dict[str, str] = {}
        """Of actions that fail again and again, by action."""

    def run(self) -> Outcome:
        """Supervise until the end. A second signal ends the children at once."""
        if self._duties is not None:
            self._duties.report_start()
        with on_signals(self._on_signal):
            ticker = start_ticker(self._due.put)
            try:
                if self._duties is not None:
                    self._try("disk", self._duties.look_at_halts)
                watching = [
                    ("watching the actor", self._watch_standing),
                    ("watching the jobs", self._watch_jobs),
                    ("watching the page", self._watch_page),
                    ("watching the cluster", self._watch_cluster),
                ]
                while self._outcome is None:
                    for what, action in [*self._ticks(), *watching]:
                        if self._outcome is None:
                            self._try(what, action)
                    self._outcome = self._outcome or outcome(self._limits, self._tally)
            finally:
                ticker.shutdown(wait=False)
                self._stop_children()
            self._try("reporting the end", self._report_end)
        return self._outcome

    def _ticks(self) -> list[tuple[str, Action]]:
        """The actions that have become due, each once; waits a little."""
        due: dict[Tick, None] = {}
        try:
            due[self._due.get(timeout=WATCH_S)] = None
            while True:
                due[self._due.get_nowait()] = None
        except queue.Empty:
            return [(tick, self._actions[tick]) for tick in due if tick in self._actions]

    def _try(self, what: str, action: Action) -> None:
        """Run one action of the loop. A command ends with its error; a daemon records an error once, and the next tick tries again."""
        try:
            action()
            self._errors.pop(what, None)
        except Exception as error:
            if self._duties is None:
                raise
            text = str(error) if isinstance(error, PerdureError) else f"{type(error).__name__}: {error}"
            known = text in self._errors.values()
            self._errors[what] = text
            if not known:
                try:
                    record_event(self.store, "error", SUPERVISOR, f"{what} failed: {text}")
                except PerdureError:  # a full disk takes no events either
                    click.echo(f"perdure: {what} failed: {visible(text)}", err=True)

    def _watch_standing(self) -> None:
        """Keep the vLLM servers and the actor running, if there are any."""
        standing = [*self._servers, *([self._actor] if self._actor is not None else [])]
        for keeper in standing:
            keeper.tick(wanted=keeper is not self._actor or self._halted.play is None)
            if keeper.bad_configuration is not None and self._outcome is None:
                self._outcome = Outcome(code=2, reason=keeper.bad_configuration)
        if standing:
            best_server = sorted(self._servers, key=lambda keeper: keeper.deaths)[:1]  # as long as one of them serves, work goes on
            worst = max([*best_server, *([self._actor] if self._actor is not None else [])], key=lambda keeper: keeper.deaths)
            self._tally.worst_child = "actor" if worst is self._actor else "vLLM server"
            self._tally.deaths, self._tally.death = worst.deaths, worst.death

    def _watch_page(self) -> None:
        if self._page is not None:
            self._page.tick()

    def _watch_cluster(self) -> None:
        for keeper in self._cluster:
            keeper.tick()

    def _watch_jobs(self) -> None:
        """Keep a process at the next job."""
        if self._jobs.watched is None:
            job = self._next_job()
            if job is not None and self._halted.learn is None:
                self._jobs.start(job)
            return
        if self._halted.job is not None:
            self._jobs.watched.ask_to_end(GRACE_S)
        ended = self._jobs.poll()
        if ended is not None and self._duties is not None:
            self._duties.count(ended)

    def _next_job(self) -> Job | None:
        if self._limits.job is None:
            return next(iter(unfinished_jobs(self.store)), None)
        job = get_job(self.store, self._limits.job)
        self._tally.job_ended = job.state in ENDED
        return None if self._tally.job_ended else job

    @property
    def _halted(self) -> Halts:
        """What may not go on. Only a daemon looks at this: a single job runs because the user asked for it."""
        return self._duties.halted if self._duties is not None else Halts()

    def _checkpoint(self) -> None:
        checkpoint(self.store)
        for watched in [*self._samplers(), *self._serving(), *self._beside()]:
            watched.child.trim_log()

    def _samplers(self) -> list[Watched]:
        """The children that sample. The servers that they sample from end after them."""
        actor = self._actor.watched if self._actor is not None else None
        return [watched for watched in (actor, self._jobs.watched) if watched is not None]

    def _serving(self) -> list[Watched]:
        return [server.watched for server in self._servers if server.watched is not None]

    def _beside(self, *, but: str = "") -> list[Watched]:
        """The page, the journal and the cluster; `but` for the one of this name."""
        keepers = [*([self._page] if self._page is not None else []), *self._cluster]
        return [keeper.watched for keeper in keepers if keeper.watched is not None and keeper.name != but]

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        self._outcome = self._outcome or Outcome(code=0, reason=HUNG_UP if number == signal.SIGHUP else "stopped by a signal")

    def _stop_children(self) -> None:
        """End them, and give back the work that they could not give back themselves."""
        if self._duties is not None:
            self._duties.report_stopping()
        set_busy_timeout(self.store, LAST_PATIENCE_MS)
        first = [*self._samplers(), *self._beside(but=JOURNAL)]  # players elsewhere give back through the journal what they were doing
        for children in (first, [*self._serving(), *(one for one in self._beside() if one not in first)]):
            grace_s = CLUSTER_GRACE_S if self._cluster else GRACE_S
            end_children([watched.child for watched in children], grace_s, hurry=lambda: self._signals > 1)
        self._try("giving back what was being done", self._give_back)  # if that fails, the next start does it

    def _give_back(self) -> None:
        with self.store.write():
            self._jobs.give_back()
            for watched in self._samplers():
                requeue_tasks(self.store, watched.owner)
                end_leases_of(self.store, watched.owner)
            requeue_lapsed(self.store, BootClock())  # of a process that died, and was to start again
            abort_orphans(self.store)
        checkpoint(self.store)

    def _report_end(self) -> None:
        if self._duties is not None and self._outcome is not None:
            self._duties.report_end(self._outcome)
