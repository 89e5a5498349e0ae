"""Why a process ended, told apart for whoever has to mend it, and for what happens next.

A child that knows why it ends says so by its exit code (`die_of`). Where it could not, its signal and the kernel's count of processes that
it ended for want of memory tell. Left out: starting, watching and ending children (`children.py`, `watch.py`).
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from perdure.memory.errors import InputError, PerdureError, RuntimeFailure, Unavailable

Cause = Literal["stopped", "crashed", "refused", "failed", "unavailable", "out of memory", "broken GPU", "killed", "hung"]
"""stopped: it was asked to end. crashed: by a mistake in what it ran. refused: its input or configuration cannot work. failed: the machine
or the home is not able to. unavailable: a full disk, a locked store. killed: by a signal from outside. hung: no progress past its limit."""

EXIT_CODES: dict[Cause, int] = {
    "stopped": 0,
    "crashed": 1,
    "refused": 2,
    "failed": 3,
    "unavailable": 4,
    "out of memory": 5,
    "broken GPU": 6,
}

TRANSIENT: frozenset[Cause] = frozenset({"stopped", "unavailable", "out of memory", "broken GPU", "killed"})
"""What says nothing about the work that was being done: the same may succeed when it is tried again."""

LINE_LIMIT = 500

_OWN_FAULT = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS)
_NO_MEMORY = ("MemoryError", "OutOfMemoryError")
_NO_GPU = ("AcceleratorError",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a process ended."""

    code: int
    """Below 0: minus the signal that ended it."""
    last_line: str
    """Of its log; empty where it wrote none."""

    def __str__(self) -> str:
        how = f"was ended by {_signal(-self.code)}" if self.code < 0 else f"ended with exit code {self.code}"
        return f"{how}: {self.last_line.removeprefix('error: ')}" if self.last_line else how


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a process ended, and why."""

    exit: Exit
    cause: Cause

    def __str__(self) -> str:
        return f"{self.cause}: it {self.exit}"


def cause_of(exit: Exit, *, hung: bool, oom_killed: bool) -> Cause:
    """Why a process ended. `hung`: its watcher ended it. `oom_killed`: the kernel has just ended processes for want of memory."""
    if hung:
        return "hung"
    if exit.code >= 0:
        return next((cause for cause, code in EXIT_CODES.items() if code == exit.code), "crashed")
    if exit.code == -signal.SIGKILL and oom_killed:
        return "out of memory"
    return "crashed" if -exit.code in _OWN_FAULT else "killed"


def cause_of_error(error: BaseException) -> Cause:
    """Why a process ends that ends by this error. Torch's errors are known by their names, since not every process has torch."""
    said = str(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds.intersection(_NO_MEMORY) or "DefaultCPUAllocator" in said:  # on a CPU torch says it with a plain RuntimeError
        return "out of memory"
    if kinds.intersection(_NO_GPU) or "CUDA error" in said or "CUDNN_STATUS" in said:
        return "broken GPU"
    if isinstance(error, Unavailable) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return "unavailable"
    if isinstance(error, PerdureError):
        return "refused" if isinstance(error, InputError) else "failed"
    return "crashed"


def die_of(error: Exception) -> NoReturn:
    """End this process by an error: a line for people, an exit code for the watcher.

    At once, and tidying up nothing: on a broken GPU, or without memory, that may hang. The store needs no tidying.
    """
    try:
        if not isinstance(error, PerdureError):
            traceback.print_exception(error)
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
    finally:
        os._exit(EXIT_CODES[cause_of_error(error)])


def one_line(error: BaseException) -> str:
    """What an error says, cut where it says much, with its kind where it is not one of ours."""
    text = " ".join(str(error).split())[:LINE_LIMIT]
    if isinstance(error, InputError | RuntimeFailure):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def oom_kills() -> int:
    """A number that rises whenever the kernel ends a process for want of memory, in this control group or on the machine."""
    return sum(_oom_kills_in(file) for file in (Path("/proc/vmstat"), *_control_groups()))


def _signal(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _control_groups() -> Iterator[Path]:
    """Where the control group of this process counts: of version 2, and of version 1."""
    groups = Path("/proc/self/cgroup")
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield Path(f"/sys/fs/cgroup{path}/memory.events")
        elif controllers == "memory":
            yield Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control")


def _oom_kills_in(file: Path) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
