"""Child processes, as their parent sees them: each in a session of its own, with its output in `logs/<name>.log`.

A child that is ended gets SIGTERM and some time, then SIGKILL, both for its whole group; processes that it leaves behind when it dies are
ended too. Left out: why it ended (`causes.py`), whether it makes progress (`watch.py`), what its end means for its work
(`abandoned_work.py`), and the child's own side (`agent/processes/child.py`).
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from perdure.agent.control_groups import cpu_quota, usable_cores
from perdure.agent.processes.child import LOG_VARIABLE, PARENT_VARIABLE
from perdure.agent.supervision.causes import Exit
from perdure.agent.telemetry.json_log import plain_line

LOG_LIMIT_BYTES = 4 * 2**20
"""A longer log is renamed to `<name>.log.1` when its process starts again or when `trim_log` is called."""

TAIL_BYTES = 2**16
POLL_S = 0.05
KILLED_S = 1.5
"""How long the kernel may take to end a process that was killed."""

CHILD_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONFAULTHANDLER": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "2000",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "TOKENIZERS_PARALLELISM": "false",
}
"""With the fault handler a process that crashes outside of Python, or is ended because it hangs, writes its stacks into its log. OpenMP's
threads spin while they wait, and on a busy machine they starve the very thread that they wait for: with one other busy process on two
cores, sampling took 46 s instead of 4.4 s. Passive waiting with a short spin before it takes a third less time in decoding than none on two
idle cores (3.3 s, not 4.9), and about a tenth more in learning beside a busy process. torch keeps 1,024 kernels that were made for one
shape each; those of a learner took half a gigabyte, and few shapes come twice."""


class Child:
    """A running `python -m MODULE ARGUMENTS`; `variables` are added to its environment."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        home: Path,
        *,
        json_log: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.started_s = time.monotonic()
        self._log = home / "logs" / f"{name}.log"
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],  # -P: a queue.py in the working folder is not Python's
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **CHILD_ENVIRONMENT,
                    **_threads(),
                    **os.environ,
                    **(variables or {}),
                    PARENT_VARIABLE: str(os.getpid()),
                    **({LOG_VARIABLE: name} if json_log else {}),
                },
            )
        self.pid = self._process.pid

    def poll(self) -> Exit | None:
        """How it ended; None while it runs."""
        if self._process.returncode is None:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            self.signal(signal.SIGKILL)  # its own children, before another process can get its number
        return Exit(code=self._process.wait(), last_line=self._last_words())

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and to all processes that it started."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def trim_log(self) -> None:
        """Rename a long log of the running process, so that weeks of output do not fill the disk."""
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT_BYTES:
            shutil.copyfile(self._log, self._log.with_suffix(".log.1"))
            os.truncate(self._log, 0)  # it always appends, so it goes on at the start
            self._log_start = 0

    def _last_words(self) -> str:
        """The last line of its log; if it crashed outside of Python, the crash and the line that it was at."""
        try:
            with self._log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, size - TAIL_BYTES))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError:  # the log was deleted
            return ""
        crash = next((n for n, line in enumerate(lines) if line.startswith("Fatal Python error: ")), None)
        if crash is None:
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            return next((line.strip() for line in reversed(plain_line(last).splitlines()) if line.strip()), "")
        thread = next((n for n, line in enumerate(lines) if n > crash and line.startswith("Current thread ")), crash)
        where = next((line.strip() for line in lines[thread:] if line.startswith("  File ")), "")
        return lines[crash] + (f" ({where})" if where else "")


def end_children(children: Sequence[Child], grace_s: float, hurry: Callable[[], bool]) -> None:
    """Send SIGTERM, then SIGKILL after `grace_s` or as soon as `hurry()`. Returns when all have ended.

    A child that the kernel cannot end, because a device does not answer, is left behind: it runs no further in any case.
    """
    for child in children:
        child.signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(child.poll() is None for child in children):
        if hurry() or time.monotonic() > deadline:
            for child in children:
                child.signal(signal.SIGKILL)
        if time.monotonic() > deadline + KILLED_S:
            return
        time.sleep(POLL_S)


@contextmanager
def on_signals(called: Callable[[int], None]) -> Iterator[None]:
    """SIGTERM, SIGINT and SIGHUP call `called` with their number, and end nothing, while this lasts.

    SIGHUP is left alone if it is ignored, as under nohup. After it nothing is written to the terminal any more, which is gone.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        called(number)

    heard = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        heard.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _threads() -> dict[str, str]:
    """As many threads as the control group lets run: with more, they wait for each other until the next period of their quota."""
    return {"OMP_NUM_THREADS": str(usable_cores())} if math.isfinite(cpu_quota()) else {}


def _leave_terminal() -> None:
    """Send what this process prints to nowhere, if it goes to a terminal: writing to one that is gone fails."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


class Backoff:
    """How long to wait before a process that died is started again: twice as long each time, and short again once one has lived."""

    FIRST_S = 0.5
    LONGEST_S = 60.0
    LONGEST_UNAVAILABLE_S = 5.0
    """After a full disk, a locked store or a silent server, so that work resumes soon after that is over."""
    LIVED_S = 60.0

    def __init__(self) -> None:
        self.deaths = 0
        """In a row, each soon after its start. Those of the cause `unavailable` are not counted."""
        self._waits = 0
        self._ready_s = 0.0

    def died(self, lived_s: float, *, unavailable: bool = False) -> float:
        """Note a death `lived_s` after the start, and give the seconds to wait."""
        if lived_s > self.LIVED_S:
            self.deaths = self._waits = 0
        self.deaths += not unavailable
        self._waits += 1
        longest_s = self.LONGEST_UNAVAILABLE_S if unavailable else self.LONGEST_S
        wait_s = min(self.FIRST_S * 2.0 ** min(self._waits - 1, 20), longest_s)
        self._ready_s = time.monotonic() + wait_s
        return wait_s

    def ready(self) -> bool:
        return time.monotonic() >= self._ready_s
