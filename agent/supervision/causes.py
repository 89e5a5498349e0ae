"""Why a child ended, for the person who has to repair it and for what happens to its work.

A child that knows why it ends says so by its exit code (`agent/processes/exit_codes.py`). Otherwise its signal tells, and the kernel's
count of processes that it ended because memory ran out. Left out: starting, watching and ending children (`children.py`, `watch.py`).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perdure.agent.processes.exit_codes import EXIT_CODES, Cause

_OWN_FAULT = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a process ended."""

    code: int
    """Below 0: minus the signal that ended it."""
    last_line: str
    """Of its log; empty if it wrote none."""

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
    """Why a process ended. `hung`: its watcher ended it. `oom_killed`: the kernel has just killed a process because memory ran out."""
    if hung:
        return "hung"
    if exit.code >= 0:
        return next((cause for cause, code in EXIT_CODES.items() if code == exit.code), "crashed")
    if exit.code == -signal.SIGKILL and oom_killed:
        return "out of memory"
    return "crashed" if -exit.code in _OWN_FAULT else "killed"


def oom_kills() -> int:
    """A number that rises when the kernel kills a process because memory ran out, in this control group or on the machine."""
    return sum(_oom_kills_in(file) for file in (Path("/proc/vmstat"), *_control_groups()))


def _signal(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _control_groups() -> Iterator[Path]:
    """The files in which the control group of this process counts: of version 2, and of version 1."""
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
