"""A home with a daemon that can be killed: started, watched from outside through its side file and /proc, and examined."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.agent.web.servers import Server, free_port
from tests.faults.acknowledged import Acknowledgements, acknowledgements_of
from tests.faults.arming import arm, taken_by
from tests.faults.games import CHAIN, RIGGED
from tests.faults.invariants import Findings, Witness

from perdure.memory.contracts.orders import Job, LearnOrder
from perdure.memory.jobs import add_job, get_job
from perdure.memory.store import open_store

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 90.0
STOP_S = 10.0
"""SIGTERM ends a daemon within this time."""

CONFIG = """
model = {model}
[play]
width = 8
members = 4
[stream]
environments = {environments}
tasks_per_round = 16
[learn]
every_episodes = 0
[sandbox]
trusted = {trusted}
[web]
port = {port}
"""
MAKE_HOME = """
import sys
from pathlib import Path
from perdure.memory.store import create_store
create_store(Path(sys.argv[1])).close()
"""
LEARN: dict[str, Any] = {"updates": 2, "prompts": 2, "samples": 4, "replay": 0.0, "rank": 2}


class Stuck(Exception):
    """What had to happen did not."""


class Place:
    """A folder with a home, its configuration, and at most one daemon at a time. As a context manager it leaves no process behind."""

    def __init__(
        self,
        path: Path,
        model: Path | str,
        actor: str = "tests.faults.actor",
        environments: Sequence[str] = (CHAIN, RIGGED),
        more: str = "",
        daemon: str = "tests.faults.daemon",
        stop_s: float = STOP_S,
        patience_s: float = PATIENCE_S,
        trusted: Sequence[str] = (RIGGED,),
    ) -> None:
        self.path = path
        self.home = path / "home"
        self.config = path / "perdure.toml"
        self.acknowledged = Acknowledgements(acknowledgements_of(self.home))
        self.daemon: subprocess.Popen[bytes] | None = None
        self._actor = actor
        self._program = daemon
        self._stop_s = stop_s
        self._patience_s = patience_s
        self._armed = 0
        self._kills_seen = 0
        self._witness = Witness(self.acknowledged)
        path.mkdir(parents=True, exist_ok=True)
        self.page = Server(home=self.home, port=free_port(), timeout_s=2.0)
        named = {"model": str(model), "environments": list(environments), "trusted": ["perdure:", *trusted], "port": self.page.port}
        self.config.write_text(CONFIG.format(**{key: json.dumps(value) for key, value in named.items()}) + more)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def start(self, **environment: str) -> float:
        """Start the daemon; gives the moment (seconds, monotonic)."""
        assert self.daemon is None, "one daemon at a time"
        moment = time.monotonic()
        with (self.path / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", self._program, str(self.home), str(self.config), self._actor],
                cwd=self.path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=child_environment(**environment),
            )
        return moment

    def kill(self) -> None:
        """kill -9 of the supervisor; its children are left to themselves."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()
        self.daemon = None

    def ended(self) -> int:
        """Wait until the daemon has ended by itself; gives its exit code."""
        assert self.daemon is not None
        code = self.daemon.wait(timeout=PATIENCE_S)
        self.daemon = None
        return code

    def stop(self) -> None:
        """SIGTERM. Raises `Stuck` where the daemon does not end well and in time, or leaves a process behind."""
        assert self.daemon is not None
        self.daemon.terminate()
        try:
            code = self.daemon.wait(timeout=self._stop_s)
        except subprocess.TimeoutExpired:
            raise Stuck(f"the daemon did not stop within {self._stop_s:.0f} s\n{self.logs()}") from None
        self.daemon = None
        if code != 0:
            raise Stuck(f"a daemon that was told to stop ended with {code}\n{self.logs()}")
        self.wait("the processes that outlived their supervisor to leave", lambda: not self.leftovers())

    def end(self) -> None:
        """End whatever still runs here."""
        if self.daemon is not None:
            self.kill()
        for pid in self.leftovers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def makes_home(self, fault: str) -> subprocess.CompletedProcess[str]:
        """A process that makes the home as a supervisor does, and nothing else."""
        return self._process("-c", MAKE_HOME, str(self.home), fault=fault)

    def run(self, *arguments: str, fault: str = "") -> subprocess.CompletedProcess[str]:
        """A command on this home, in a process of its own."""
        return self._process("-m", "perdure", "--home", str(self.home), *arguments, fault=fault)

    def _process(self, *arguments: str, fault: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=child_environment(**({"PERDURE_FAULT": fault} if fault else {})),
        )

    def child(self, program: str) -> int | None:
        """The daemon's actor or learner, by the end of the name of its module."""
        return next((pid for pid in self.children() if any(word.endswith(program.encode()) for word in _command_line(pid)[:4])), None)

    def children(self) -> list[int]:
        assert self.daemon is not None
        return children_of(self.daemon.pid)

    def leftovers(self) -> list[int]:
        """Processes of this home that the daemon does not have, or that live without one; then also those of its environments."""
        known = {os.getpid(), *([self.daemon.pid, *self.children()] if self.daemon else [])}
        home, here = str(self.home).encode(), json.dumps(str(self.path)).encode()
        pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        found = []
        for pid in pids:
            words = _command_line(pid)
            of_environment = self.daemon is None and b"perdure.envs.sandbox.worker" in words and any(here in word for word in words)
            if pid not in known and (home in words or of_environment) and lives(pid):
                found.append(pid)
        return found

    def arm(self, program: str, *faults: str) -> list[int]:
        """The next processes of `program` that start here will end at these faults, in order. Gives their numbers for `dies`."""
        numbers = list(range(self._armed + 1, self._armed + 1 + len(faults)))
        for number, fault in zip(numbers, faults, strict=True):
            arm(self.home, program, number, fault)
        self._armed += len(faults)
        return numbers

    def dies(self, program: str, number: int) -> tuple[int, float]:
        """Wait until the process that was armed has died; gives its pid and the moment."""
        self.wait(f"a {program} that takes fault {number}", lambda: taken_by(self.home, program, number) is not None)
        pid = taken_by(self.home, program, number)
        assert pid is not None
        self.wait(f"fault {number} in the {program}", lambda: not lives(pid), every_s=0.002)
        return pid, time.monotonic()

    def sees_kill(self) -> None:
        """Wait until the supervisor has written down one more child that was ended by SIGKILL, and not by its own mistake."""
        sql = "SELECT count(*) FROM event WHERE message LIKE '%SIGKILL%'"
        self.wait("the event that tells of the kill", lambda: self.ask(sql) > self._kills_seen)
        self._kills_seen += 1

    def serves_after(self, moment: float, not_by: Collection[int] = ()) -> float:
        """Seconds until a turn was acknowledged by another process than `not_by`."""
        times = self.acknowledged.times
        seen = len(times)
        while seen and times[seen - 1][1] > moment:
            seen -= 1
        found: list[float] = []

        def served() -> bool:
            self.acknowledged.read()
            found.extend(at - moment for pid, at in times[seen:] if at > moment and pid not in not_by)
            return bool(found)

        self.wait("a new turn", served, every_s=0.005)
        return found[0]

    def queue_job(self, updates: int = LEARN["updates"]) -> int:
        """A learning job that comes to a promotion where nothing disturbs it."""
        options = {**LEARN, "updates": updates}
        with open_store(self.home) as store:
            return add_job(store, uuid4().hex, [RIGGED], LearnOrder(learner="grpo", options=options, profile="economy"))

    def job(self, job: int) -> Job:
        with open_store(self.home) as store:
            return get_job(store, job)

    def job_ends(self, job: int) -> Job:
        self.wait(f"the end of job {job}", lambda: self.job(job).state in ("done", "failed"), every_s=0.05)
        return self.job(job)

    def examine(self, *, at_rest: bool = False) -> Findings:
        with open_store(self.home) as store:
            return self._witness.examine(store, at_rest=at_rest)

    def ask(self, sql: str) -> Any:
        """The first value that a query gives."""
        with open_store(self.home) as store:
            return store.rows(sql)[0][0]

    def wait(self, what: str, condition: Callable[[], bool], every_s: float = 0.02) -> None:
        """Raises `Stuck` where it does not come."""
        deadline = time.monotonic() + self._patience_s
        while not condition():
            if time.monotonic() > deadline:
                raise Stuck(f"waited {self._patience_s:.0f} s for {what} in {self.path}\n{self.logs()}")
            time.sleep(every_s)

    def logs(self) -> str:
        """The ends of all logs."""
        files = [self.path / "daemon.log", *sorted((self.home / "logs").glob("*.log"))]
        return "\n".join(f"--- {file.name}\n{file.read_text()[-2000:]}" for file in files if file.exists())


def child_environment(**more: str) -> dict[str, str]:
    """Children find the suite as well as the program, and are told of no fault but those given."""
    paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_") or name == "PERDURE_CACHE"}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **more}


def lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def children_of(pid: int) -> list[int]:
    """The processes that a process, in any of its threads, has started and that are still listed."""
    found = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [int(child) for child in thread.read_text().split()]
    return found


def descendants_of(pid: int) -> list[int]:
    """Its children, theirs, and so on."""
    return [each for child in children_of(pid) for each in (child, *descendants_of(child))]


def _command_line(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
