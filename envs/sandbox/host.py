"""Environments in processes of their own: what one does there, hanging, crashing or worse, ends its episode and nothing else.

    this process            host: a process for each environment, that imports it        worker: one for each episode at once
    ------------            ------------------------------------------------------        ------------------------------------
    load(name)      ---->   imports, tells what it is (`registry.py:load_here`)
    RemoteEnv.begin ---->   forks a worker, or none where one is idle          ---->      plays episodes behind `GuardedEnv`

A host is in a session and a private folder of its own, with few environment variables, limits on memory and processor time and, where the
kernel allows that, namespaces (`confinement.py`): no network, and no processes but its own. Whoever overruns a time limit is killed with
all that it has started; a host that died is started again for the next episode. `worker.py` is the other side, `remote.py` an episode on
this one. This keeps accidents in; it is no wall against somebody who wants out, since files that the user may read can be read.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import perdure
from perdure.envs.environment import Environment, TextEnv
from perdure.envs.guarded import EnvironmentFault, Guarded
from perdure.envs.sandbox.remote import END_S, GRACE_S, RemoteEnv, Worker
from perdure.envs.sandbox.wire import SEND_S, Wire, number, watched
from perdure.memory.errors import InputError, UnknownError

LOAD_TIMEOUT_S = 120.0
IDLE_S = 60.0
"""A worker that had nothing to do for so long is let go of."""

CLOSING_S = 0.05
"""How long to wait for one that puts its last episode away, before another is forked."""

PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")
TAIL_BYTES = 2**13


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """Which environments run in processes of their own, and what those may use."""

    trusted: tuple[str, ...] = ("perdure:",)
    """Sources (`perdure:`) and names without options (`py:prices:Prices`) that run in this process."""
    memory_mib: int = 2048
    """Address space of each process."""
    cpu_s: int = 300
    """Processor time of one episode."""
    network: bool = False
    variables: tuple[str, ...] = ()
    """Environment variables that are passed on beside those that every program needs."""
    python: Mapping[str, str] = field(default_factory=dict)
    """The interpreter for the environments of a source, where its packages are installed apart."""

    def trusts(self, name: str) -> bool:
        """Whether the environment of this name runs in this process."""
        source, plain = name.partition(":")[0], name.partition("?")[0]
        return f"{source}:" in self.trusted or plain in self.trusted


DEFAULT = Sandbox()


def load_apart(name: str, sandbox: Sandbox) -> Environment:
    """The environment of a name, in a process of its own, which ends when the environment is let go of.

    Raises `UnknownError` and `InputError` as `registry.py:load_here` does.
    """
    return started(name, sandbox)[0]


def load_all_apart(names: Sequence[str], sandbox: Sandbox) -> dict[str, Environment]:
    """Several, by name. Their processes import side by side, which takes each of them up to a second. Raises as `load_apart` does."""
    hosts: dict[str, Host] = {}
    try:
        for name in names:
            host = Host(name, sandbox, hash_seed=0)
            host.launch()
            hosts[name] = host
        return {name: _described(host, name, host.hear()) for name, host in hosts.items()}
    except BaseException:
        for host in hosts.values():
            host.abandon()
        raise


def started(name: str, sandbox: Sandbox, hash_seed: int = 0) -> tuple[Environment, Host]:
    """The environment with its process, for whoever wants more of that than episodes.

    The hashes of strings are those of `hash_seed`, so that an environment that iterates over a set is the same in every process.
    """
    host = Host(name, sandbox, hash_seed)
    return _described(host, name, host.start()), host


def _described(host: Host, name: str, told: dict[str, Any]) -> Environment:
    for kind, error in (("unknown", UnknownError), ("wrong", InputError)):
        if kind in told:
            raise error(str(told[kind]))
    try:
        examples = tuple((asked, answered) for asked, answered in told.pop("examples"))
        environment = Environment(make=host.refuse, examples=examples, apart=host.open, **told)
        host.limit_s = float(environment.step_timeout_s)
        return environment
    except (LookupError, TypeError, ValueError) as wrong:
        host.close()
        raise InputError(f"{name} cannot be loaded: its process says what is no description of an environment") from wrong


class Host:
    """The process of one environment, from which those of its episodes are forked. It ends with this object, and with this process."""

    def __init__(self, name: str, sandbox: Sandbox, hash_seed: int) -> None:
        self._name = name
        self._sandbox = sandbox
        self._hash_seed = hash_seed
        self._workers: list[Worker] = []
        self.limit_s = 0.0
        """How long one call of the environment may take."""

    @property
    def pid(self) -> int:
        """Of the process that is there now."""
        return self._process.pid

    def pids(self) -> list[int]:
        """Of its workers, the oldest first, as this process counts."""
        return [worker.wire.process or worker.pid for worker in self._workers]

    def open(self) -> Guarded:
        """An episode of this environment, yet to begin."""
        return RemoteEnv(self)

    def close(self) -> None:
        """End the process and all that it started."""
        self._end()

    def abandon(self) -> None:
        """The same for one that may still import, and would not see that nobody waits."""
        self._process.kill()
        self.close()

    def worker(self) -> Worker:
        """An idle worker, else a new one. Raises `EnvironmentFault` where the environment's process cannot be had."""
        for worker in [one for one in self._workers if not one.playing and time.monotonic() - one.asked_s > IDLE_S]:
            self.end(worker)
        until_s = time.monotonic() + CLOSING_S
        while idle := [worker for worker in self._workers if not worker.playing]:
            for worker in idle:
                state = worker.state(self.limit_s + GRACE_S)
                if state == "free" and not worker.spent:
                    worker.playing = True
                    return worker
                if state != "busy":
                    self.end(worker)
            if time.monotonic() > until_s:
                break
            time.sleep(0.001)
        try:
            return self._fork()
        except (OSError, EOFError, ValueError):
            self.close()
        told = self.start()
        if "name" not in told:
            raise EnvironmentFault(f"its process died and cannot be started again: {' '.join(map(str, told.values()))}")
        try:
            return self._fork()
        except (OSError, EOFError, ValueError) as error:
            raise EnvironmentFault(f"its process died: {self._last_words() or 'without a word'}") from error

    def end(self, worker: Worker, patience_s: float = 0.0) -> str:
        """Kill a worker that has not ended by itself after `patience_s`, and all that it started; tells how it ended."""
        worker.wire.close()
        if worker not in self._workers:
            return "its process died"
        self._workers.remove(worker)
        try:
            self._wire.send({"end": worker.pid, "patience_s": patience_s})
            status = number(self._wire.receive(END_S), "status") & 0xFFFF
        except (OSError, EOFError, ValueError):
            return "its process died"
        if os.WIFEXITED(status):
            return f"its process ended with exit code {os.WEXITSTATUS(status)}"
        by = os.WTERMSIG(status)
        if by == signal.SIGXCPU:
            return f"it took more than {self._sandbox.cpu_s} s of processor time in one episode (sandbox.cpu_s)"
        return f"its process was ended by {signal.Signals(by).name if by in list(signal.Signals) else f'signal {by}'}"

    def start(self) -> dict[str, Any]:
        """Start the process; gives what it tells of the environment, or why it cannot be had."""
        self.launch()
        return self.hear()

    def launch(self) -> None:
        """Start the process, and do not wait for it. Raises `InputError` where its interpreter cannot be run."""
        folder = Path(tempfile.mkdtemp(prefix="perdure-env-"))
        ours, theirs = socket.socketpair()
        with theirs, (folder / "output").open("ab") as output:
            try:
                process = subprocess.Popen(
                    [self._python(), "-P", "-m", "perdure.envs.sandbox.worker", str(theirs.fileno()), str(folder), self._told()],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                    env=self._variables(folder),
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                shutil.rmtree(folder, ignore_errors=True)
                raise InputError(f"{self._name}: cannot run {self._python()}: {error.strerror}; see [sandbox] python") from error
        self._process, self.folder, self._wire, self._workers = process, folder, Wire(ours, process=watched(process.pid), send_s=SEND_S), []
        self._end = weakref.finalize(self, _end, process, self._wire, self._workers, folder)

    def hear(self) -> dict[str, Any]:
        """Wait for what the process that was launched tells of the environment, or why it cannot be had."""
        told: dict[str, Any] | None = None
        try:
            told = self._wire.receive(LOAD_TIMEOUT_S)
            return told
        except TimeoutError:
            reason = f"that takes longer than {LOAD_TIMEOUT_S:g} s"
        except (OSError, EOFError, ValueError):
            reason = f"its process died: {self._last_words() or 'without a word'}"
        finally:
            if told is None:  # also where this process is interrupted: one that imports does not see that nobody waits
                self._process.kill()
        self.close()
        return {"wrong": f"{self._name} cannot be loaded: {reason}"}

    def _fork(self) -> Worker:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._wire.send({"fork": True}, theirs.fileno())
            told, process = self._wire.receive_with_descriptor(END_S)
            if "refused" in told:
                raise EnvironmentFault(f"there is no process for it: {told['refused']}")
            worker = Worker(pid=number(told, "pid"), wire=Wire(ours, process=process, send_s=SEND_S))
        except (OSError, EOFError, ValueError, EnvironmentFault):
            ours.close()
            raise
        self._workers.append(worker)
        return worker

    def _python(self) -> str:
        return self._sandbox.python.get(self._name.partition(":")[0], sys.executable)

    def _told(self) -> str:
        """What the process is told at its start."""
        sandbox = self._sandbox
        limits = {"memory_mib": sandbox.memory_mib, "cpu_s": sandbox.cpu_s, "network": sandbox.network}
        return json.dumps({"name": self._name, "parent": os.getpid(), "path": self._path(), **limits})

    def _path(self) -> list[str]:
        """Where modules are looked for last: the working folder; before it, under the same interpreter, wherever this process looks."""
        ours = [part for part in sys.path if part] if self._python() == sys.executable else []
        return [*ours, os.getcwd()]

    def _variables(self, folder: Path) -> dict[str, str]:
        library = folder / "library"  # Perdure itself, and nothing of what is installed beside it
        library.mkdir()
        (library / "perdure").symlink_to(Path(perdure.__file__).resolve().parent)
        passed_on = {name: os.environ[name] for name in (*PASSED_ON, *self._sandbox.variables) if name in os.environ}
        own = {"PYTHONPATH": str(library), "HOME": str(folder), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        own["PYTHONHASHSEED"] = str(self._hash_seed)
        return {**passed_on, **own}

    def _last_words(self) -> str:
        """The last line that the process printed."""
        with suppress(OSError), (self.folder / "output").open("rb") as output:
            output.seek(max(0, output.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = output.read().decode("utf-8", "replace").splitlines()
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""

    def refuse(self) -> TextEnv:
        raise InputError(f"{self._name} runs in a process of its own: to have it in this one, name it in [sandbox] trusted")


def without_process(environment: Environment) -> Environment:
    """What is known of an environment, for whoever does not play it: its process can end."""
    return replace(environment, make=_nothing, apart=None)


def as_told(environment: Environment) -> dict[str, Any]:
    """What a host tells of its environment: all but what can only be called there."""
    return {name: getattr(environment, name) for name in Environment.__dataclass_fields__ if name not in ("make", "apart")}


def _nothing() -> TextEnv:
    raise InputError("this environment was only asked about: load it to play it")


def _end(process: subprocess.Popen[bytes], wire: Wire, workers: list[Worker], folder: Path) -> None:
    """End a host: it sees that nobody listens, and ends what it has forked. Where it cannot, that is done here."""
    wire.close()
    for worker in workers:
        worker.wire.close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        _end_left(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _end_left(folder: Path) -> None:
    """End what was started with this folder as its home, by a host that did not live to do it."""
    home = f"HOME={folder}".encode()
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if home in file.read_bytes().split(b"\0"):
                os.kill(int(file.parent.name), signal.SIGKILL)
