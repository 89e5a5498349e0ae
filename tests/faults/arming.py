"""How a fault comes into one process of a daemon and into no other: a row of files, of which each process of that name takes the first.

`PERDURE_FAULT` in the daemon's environment would end every process that the supervisor starts anew, each at the same point.
"""

from __future__ import annotations

import os
from pathlib import Path

from perdure.memory import faults


def arm(home: Path, program: str, number: int, fault: str) -> None:
    """A process of `program` ('actor', 'learner') that starts on this home will end at `fault` ('mid-batch:7')."""
    waiting = home / "run" / f"fault-{program}-{number:04d}"
    waiting.parent.mkdir(parents=True, exist_ok=True)
    scratch = waiting.with_name(f"making-{waiting.name}")
    scratch.write_text(fault)
    scratch.rename(waiting)


def take_fault(home: Path, program: str) -> None:
    """Called by such a process when it starts."""
    for waiting in sorted((home / "run").glob(f"fault-{program}-*"))[:1]:
        os.environ[faults.VARIABLE] = waiting.read_text()
        taken = waiting.with_name(waiting.name.replace("fault", "taken", 1))
        waiting.write_text(f"{os.getpid()}\n")
        waiting.rename(taken)


def taken_by(home: Path, program: str, number: int) -> int | None:
    """The process that took a fault, if one has."""
    try:
        return int((home / "run" / f"taken-{program}-{number:04d}").read_text())
    except FileNotFoundError:
        return None
