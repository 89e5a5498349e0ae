"""How a process is a child: its arguments, when it ends, and the exit code that says why. Actor, job and vLLM server are all run by this.

A child ends when it gets SIGTERM or SIGINT, and when the process that started it is gone: no process would look after its work any more.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from perdure.agent.processes.exit_codes import die_of

PARENT_VARIABLE = "PERDURE_PARENT"
LOG_VARIABLE = "PERDURE_JSON_LOG"
"""Set for a child that is to write its log as JSON: its name there."""
PR_SET_PDEATHSIG = 1


def child_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser of the arguments that every child takes."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=None)
    return parser


def run_child(run: Callable[[Stop], None]) -> int:
    """Run the work of this process and give its exit code. An error ends the process here (`die_of`)."""
    sys.path.append("")  # the working folder, last: as in `agent/cli.py`
    log_name = os.environ.pop(LOG_VARIABLE, "")
    if log_name:
        from perdure.agent.telemetry.json_log import write_json_logs

        write_json_logs(log_name)
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.on_signal)
    try:
        run(stop)
    except Exception as error:  # noqa: BLE001 - it becomes an exit code
        die_of(error)
    return 0


class Stop:
    """Whether this process is to end: it was asked to, or its parent is gone. Call it to know."""

    def __init__(self) -> None:
        self._parent = parent_pid()
        self._asked = False
        self._at_once = False

    def __call__(self) -> bool:
        return self._asked or os.getppid() != self._parent

    def ask(self) -> None:
        """Ask this process to end."""
        self._asked = True

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """While this lasts a signal ends the process right away: it has begun nothing that it would have to finish or give back."""
        self._at_once = True
        try:
            if self._asked:
                raise SystemExit(0)
            yield
        finally:
            self._at_once = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self.ask()
        if self._at_once:
            raise SystemExit(0)


def signalled_if_parent_dies(number: signal.Signals) -> None:
    """Runs in a program that is no child of ours in the above sense, before it begins: Linux sends it this signal when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def parent_pid() -> int:
    """The process that started this one. A child is told its number, since the parent may be dead before the child can ask the kernel."""
    return int(os.environ.get(PARENT_VARIABLE) or os.getppid())
