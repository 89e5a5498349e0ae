"""Programs that are real processes and do one thing each (play, die, hang, stay deaf), and daemons that run them. No model is loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from perdure.agent.commands.status import report
from perdure.agent.config import Config
from perdure.agent.config_file import LoadedConfig
from perdure.agent.supervision.limits import Limits, Outcome
from perdure.agent.supervision.supervisor import Programs, supervising
from perdure.memory.errors import PerdureError
from perdure.memory.processes import events, processes
from perdure.memory.store import Store, open_store

ADD = "perdure:add"
PATIENCE_S = 30.0

ACTOR = """
import ctypes, os, signal, sys, time
from pathlib import Path
from perdure.agent.processes.exit_codes import die_of
from perdure.agent.processes.pulse import Pulse
from perdure.memory.errors import Unavailable
from perdure.memory.leases import BootClock
from perdure.memory.store import open_store
from perdure.memory.tasks import finish_task, lease_tasks

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it does not outlive its parent

def play(store, pulse):
    n = 0
    while True:
        pulse.say("playing", str(n := n + 1))
        time.sleep(0.2)

def hang(store, pulse):
    pulse.say("playing", "for the last time")
    lock, lib = ctypes.create_string_buffer(64), ctypes.PyDLL(None)  # holds Python's global lock: no handler runs any more
    while True:
        lib.pthread_mutex_lock(lock)

def take_tasks(store):
    while not lease_tasks(store, f"actor:{os.getpid()}", 2, 60.0, BootClock()):
        time.sleep(0.05)

def finish_tasks(store, pulse):
    while True:
        for _, lease in lease_tasks(store, f"actor:{os.getpid()}", 2, 60.0, BootClock()):
            finish_task(store, lease)
        pulse.say("idle", "no task is queued")
        time.sleep(0.05)

def run(store, pulse):
    BODY

with open_store(Path(sys.argv[sys.argv.index("--home") + 1])) as store:
    try:
        run(store, Pulse(store, "actor"))
    except Exception as error:
        die_of(error)
"""

LEARNER = """
import os, sys, time
from pathlib import Path
from perdure.agent.processes.exit_codes import die_of
from perdure.memory.contracts.results import Cost, LearnResult, Selection
from perdure.memory.jobs import finish_job, lease_job, release_job, set_job_state
from perdure.memory.leases import BootClock
from perdure.memory.store import open_store

NOT_GATED = LearnResult(
    version="v0", verdict=None, reason="not gated", diagnostics=None, gate=None, learn_s=0.0, gate_s=0.0,
    selection=Selection(step=0, reason="nothing was learned"),
    cost=Cost(updates=0, sampled_tokens=0, learned_tokens=0, sampling_s=0.0, learning_s=0.0),
)
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open_store(Path(given["--home"])) as store:
    job, lease = lease_job(store, f"learner-{given['--job']}:{os.getpid()}", 60.0, BootClock(), int(given["--job"]))
    try:
        BODY
    except Exception as error:
        die_of(error)
"""

DAEMON = """
import signal, sys
from pathlib import Path
from perdure.agent.config_file import load_config
from perdure.agent.supervision.limits import Limits
from perdure.agent.supervision.supervisor import Programs, supervising
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as from a terminal, even if the tests run under nohup
programs = Programs(actor="an_actor", web=sys.argv[1] or None)
with supervising(Path("home"), load_config(Path("perdure.toml")), Limits(), programs) as supervisor:
    sys.exit(supervisor.run().code)
"""


@dataclass
class Place:
    """A folder with a home, programs that its children can be, and the daemons that run there."""

    path: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.path / "home"

    def actor(self, body: str) -> str:
        (self.path / "an_actor.py").write_text(ACTOR.replace("BODY", body))
        return "an_actor"

    def learner(self, body: str) -> str:
        (self.path / "a_learner.py").write_text(LEARNER.replace("BODY", body))
        return "a_learner"

    def supervise(
        self,
        actor: str,
        learner: str = "none",
        *,
        until: Callable[[Store], bool] | None = None,
        tasks: int | None = None,
        page: str | None = None,
        **settings: Any,
    ) -> Outcome:
        """Run a supervisor in this process until it ends by itself, or until the store is so."""
        config = Config.model_validate({"model": "tiny", "stream": {"environments": [ADD], "tasks_per_round": 1}, **settings})
        loaded = LoadedConfig(config=config, origins={}, path=None)
        ended = threading.Event()
        programs = Programs(actor=actor, learner=learner, web=page)
        with supervising(self.home, loaded, Limits(tries=config.supervise.tries, tasks=tasks), programs) as supervisor:
            thread = threading.Thread(target=_stop_when, args=(self.home, until or (lambda store: False), ended))
            thread.start()
            try:
                return supervisor.run()
            finally:
                ended.set()
                thread.join()

    def daemon(self, actor: str, settings: str = "", page: str = "", **environment: str) -> subprocess.Popen[bytes]:
        (self.path / "perdure.toml").write_text(f"model = 'tiny'\n[stream]\nenvironments = ['{ADD}']\n{settings}")
        process = subprocess.Popen(
            [sys.executable, "-c", DAEMON, page], cwd=self.path, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
        )
        self.started.append(process)
        return process

    def status(self) -> dict[str, Any]:
        with open_store(self.home) as store:
            return report(store).as_json()

    def wait(self, what: str, condition: Callable[[Store], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if _holds(self.home, condition):
                return
            time.sleep(0.05)
        with open_store(self.home) as store:
            pytest.fail(f"waited for {what}; {report(store)}; {[event.as_json() for event in events(store)]}")


def _holds(home: Path, condition: Callable[[Store], object]) -> bool:
    try:
        with open_store(home) as store:
            return bool(condition(store))
    except PerdureError:  # it is being made
        return False


def _stop_when(home: Path, condition: Callable[[Store], bool], ended: threading.Event) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ended.wait(0.05):
        if _holds(home, condition) or time.monotonic() > deadline:
            os.kill(os.getpid(), signal.SIGTERM)
            return


def deaths(store: Store) -> list[str]:
    return [event.message for event in reversed(events(store)) if event.kind == "death"]


def plays(store: Store) -> bool:
    return any(process.name == "supervisor" and process.state == "playing" for process in processes(store))
