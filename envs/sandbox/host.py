"""The process of one environment, as this process sees it: it imports the environment and forks a worker for each episode at once.

    this process            host: a process for each environment, that imports it        worker: one for each episode at once
    ------------            ------------------------------------------------------        ------------------------------------
    load(name)      ---->   imports it and describes it (`registry.py:load_here`)
    RemoteEnv.begin ---->   forks a worker, unless one is idle                 ---->      plays episodes behind `GuardedEnv`

A host has a session and a private folder of its own, few environment variables, limits on memory and processor time and, if the kernel
allows that, namespaces (`confinement.py`): no network, and no processes but its own. A process that overruns a time limit is killed with
all that it has started; a host that died is started again for the next episode. The other side is `worker.py`; the documents between them
are in `host_messages.py` and `worker_messages.py`.

This contains accidents. It is no protection against hostile code: files that the user may read can be read.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path

import perdure
from perdure.envs.environment import TextEnv
from perdure.envs.guarded import EnvironmentFault
from perdure.envs.sandbox.confinement import NOT_BEGUN
from perdure.envs.sandbox.host_messages import (
    LOAD_TIMEOUT_S,
    EndOrder,
    ForkRefused,
    LoadFailure,
    StartOrder,
    read_failure,
    read_fork_answer,
    read_status,
    write_end,
    write_start,
)
from perdure.envs.sandbox.sandbox_settings import Sandbox
from perdure.envs.sandbox.wire import SEND_S, Wire, WireError, WireTimeout, process_descriptor
from perdure.envs.sandbox.worker_handle import END_S, Worker
from perdure.memory.errors import InputError
from perdure.memory.json_value import JsonObject, JsonValue

GRACE_S = 2.0
"""What a worker gets beyond the environment's own time limit, which it enforces itself, before it is killed."""
IDLE_S = 60.0
"""A worker that has been idle for this long is ended."""

AGAIN_S = 60.0
"""How long a host that could not be started again is not tried again: each try may take as long as loading may."""

CLOSING_S = 0.05
"""How long to wait for a worker that is closing its last episode, before another is forked."""

PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")
TAIL_BYTES = 2**13


class Host:
    """The process of one environment, from which its workers are forked. It ends with this object, and with this process."""

    def __init__(self, name: str, sandbox: Sandbox, hash_seed: int) -> None:
        self._name = name
        self._sandbox = sandbox.of(name)
        self._hash_seed = hash_seed
        self._workers: list[Worker] = []
        self._refused: tuple[float, str] | None = None
        """When it last could not be started again, and why."""
        self.limit_s = 0.0
        """How long one call of the environment may take."""
        self.code: JsonValue = None
        """What the code of the environment was when it was loaded."""

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return self._process.pid

    def pids(self) -> list[int]:
        """Of its workers, the oldest first, in this process's namespace."""
        return [worker.wire.process or worker.pid for worker in self._workers]

    def close(self) -> None:
        """End the process and all that it started."""
        self._end()

    def abandon(self) -> None:
        """The same if it may still import: it would not notice that this side is closed."""
        self._process.kill()
        self.close()

    def take_worker(self) -> Worker:
        """An idle worker, else a new one. Raises `EnvironmentFault` if there can be none."""
        for worker in [worker for worker in self._workers if not worker.playing and time.monotonic() - worker.asked_s > IDLE_S]:
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
        except (WireError, OSError):
            self.close()
        if self._refused is not None and time.monotonic() - self._refused[0] < AGAIN_S:
            raise EnvironmentFault(self._refused[1])
        description = self.start()
        if isinstance(description, LoadFailure):
            self._refused = time.monotonic(), f"its process died and cannot be started again: {description.reason}"
            raise EnvironmentFault(self._refused[1])
        if description.get("code") != self.code:
            self._refused = time.monotonic(), f"its process died, and its code has changed since (now {description.get('code')!s:.100})"
            self.close()
            raise EnvironmentFault(self._refused[1])
        try:
            return self._fork()
        except (WireError, OSError) as error:
            raise EnvironmentFault(f"its process died: {self._last_line() or 'it printed nothing'}") from error

    def end_idle(self) -> None:
        """End the workers that play nothing, so that the next episode begins in a new one."""
        for worker in [worker for worker in self._workers if not worker.playing]:
            self.end(worker)

    def end(self, worker: Worker, patience_s: float = 0.0) -> str:
        """End a worker and all that it started, after `patience_s` in which it may end by itself; returns how it ended."""
        worker.wire.close()
        if worker not in self._workers:
            return "its process died"
        self._workers.remove(worker)
        try:
            self._wire.send(write_end(EndOrder(worker=worker.pid, patience_s=patience_s)))
            status = read_status(self._wire.receive(END_S))
        except WireError:
            return "its process died"
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == NOT_BEGUN:
            return f"its process could not begin: {self._last_line()}"
        if os.WIFEXITED(status):
            return f"its process ended with exit code {os.WEXITSTATUS(status)}"
        by = os.WTERMSIG(status)
        if by == signal.SIGXCPU:
            return f"it took more than {self._sandbox.cpu_s} s of processor time in one episode (sandbox.cpu_s)"
        return f"its process was ended by {signal.Signals(by).name if by in list(signal.Signals) else f'signal {by}'}"

    def start(self) -> JsonObject | LoadFailure:
        """Start the process; returns its description of the environment, or why it could not load it."""
        self.launch()
        return self.description()

    def launch(self) -> None:
        """Start the process without waiting for it. Raises `InputError` if its interpreter cannot be run."""
        folder = Path(tempfile.mkdtemp(prefix="perdure-env-"))
        ours, theirs = socket.socketpair()
        with theirs, (folder / "output").open("ab") as output:
            try:
                process = subprocess.Popen(
                    [self._python(), "-P", "-m", "perdure.envs.sandbox.worker", str(theirs.fileno()), str(folder), self._order()],
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
        self._wire = Wire(ours, process=process_descriptor(process.pid), send_s=SEND_S)
        self._process, self.folder, self._workers = process, folder, []
        self._end = weakref.finalize(self, _end, process, self._wire, self._workers, folder)

    def description(self) -> JsonObject | LoadFailure:
        """Wait for the description of the environment that the launched process sends, or for why it could not load it."""
        document: JsonObject | None = None
        try:
            document = self._wire.receive(LOAD_TIMEOUT_S)
        except WireTimeout:
            reason = f"that takes longer than {LOAD_TIMEOUT_S:g} s{self._place()}"
        except WireError:
            reason = f"its process died: {self._last_line() or 'it printed nothing'}"
        finally:
            if document is None:  # also if this process is interrupted: while the other imports, it does not notice
                self._process.kill()
        if document is None:
            self.close()
            return LoadFailure(unknown=False, reason=f"{self._name} cannot be loaded: {reason}")
        return read_failure(document) or document

    def _fork(self) -> Worker:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._wire.send({"fork": True}, theirs.fileno())
            document, process = self._wire.receive_with_descriptor(END_S)
            answer = read_fork_answer(document)
            if isinstance(answer, ForkRefused):
                raise EnvironmentFault(f"no process can be started for it: {answer.reason}")
            worker = Worker(pid=answer.pid, wire=Wire(ours, process=process, send_s=SEND_S))
        except (WireError, EnvironmentFault):
            ours.close()
            raise
        self._workers.append(worker)
        return worker

    def _python(self) -> str:
        return self._sandbox.python.get(self._name.partition(":")[0], sys.executable)

    def _order(self) -> str:
        sandbox = self._sandbox
        return write_start(
            StartOrder(
                name=self._name,
                parent=os.getpid(),
                path=self._path(),
                memory_mib=sandbox.memory_mib,
                cpu_s=sandbox.cpu_s,
                network=sandbox.network,
                unconfined=sandbox.unconfined,
            )
        )

    def _path(self) -> tuple[str, ...]:
        """Folders to search for modules last: the working folder; before it, under the same interpreter, this process's own."""
        ours = [folder for folder in sys.path if folder] if self._python() == sys.executable else []
        return (*ours, os.getcwd())

    def _variables(self, folder: Path) -> dict[str, str]:
        library = folder / "library"  # Perdure alone, without the packages next to it
        library.mkdir()
        (library / "perdure").symlink_to(Path(perdure.__file__).resolve().parent)
        passed_on = {name: os.environ[name] for name in (*PASSED_ON, *self._sandbox.variables) if name in os.environ}
        own = {"PYTHONPATH": str(library), "HOME": str(folder), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        own["PYTHONHASHSEED"] = str(self._hash_seed)
        return {**passed_on, **own}

    def _last_line(self) -> str:
        """The last line that the process printed."""
        return next((line.strip() for line in reversed(self._last_lines()) if line.strip()), "")

    def _last_lines(self) -> list[str]:
        with suppress(OSError), (self.folder / "output").open("rb") as output:
            output.seek(max(0, output.seek(0, os.SEEK_END) - TAIL_BYTES))
            return output.read().decode("utf-8", "replace").splitlines()
        return []

    def _place(self) -> str:
        """Where its code hangs while it is loaded: the process prints its stack shortly before its time is over."""
        frames = [line.strip() for line in self._last_lines() if line.strip().startswith('File "')]
        own = [frame for frame in frames if "/lib/python" not in frame] or frames
        return f"; it was at {own[0]}" if own else ""

    def refuse(self) -> TextEnv:
        """In the place of `Environment.make`."""
        raise InputError(f"{self._name} runs in a process of its own: to run it in this one, name it in [sandbox] trusted")


def _end(process: subprocess.Popen[bytes], wire: Wire, workers: list[Worker], folder: Path) -> None:
    """End a host: it notices that this side is closed, and ends its workers. If it cannot, that is done here."""
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
    """End the processes that have this folder as their home: their host died without doing it."""
    home = f"HOME={folder}".encode()
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if home in file.read_bytes().split(b"\0"):
                os.kill(int(file.parent.name), signal.SIGKILL)
