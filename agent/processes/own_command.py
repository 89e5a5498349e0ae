"""Perdure's own commands, run by Perdure as a person would run them: a process each, which does not outlive the one that started it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO

from perdure.agent.processes.child import signalled_if_parent_dies

ORDERLY_END_S = 180.0
"""After this time a command that was asked to end is asked again, which ends it at once."""
AT_ONCE_S = 30.0


@contextmanager
def running_command(
    home: Path, arguments: Sequence[str], *, stdout: IO[bytes] | int, stderr: IO[bytes] | int | None
) -> Iterator[subprocess.Popen[bytes]]:
    """The process of `perdure ARGUMENTS` in a home while the block lasts, and not longer.

    A signal to this process raises `KeyboardInterrupt` in the block, and ends the command in an orderly way; so does the death of this
    process.
    """
    words = [sys.executable, "-P", "-m", "perdure", "--home", str(home), *arguments]
    with _signals_as_interrupts():
        # A session of its own: Ctrl-C comes to this process only, which then ends it in an orderly way.
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=partial(signalled_if_parent_dies, signal.SIGINT),
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end as by Ctrl-C, then again, then end it."""
    for patience_s in (ORDERLY_END_S, AT_ONCE_S):
        if process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
    if process.poll() is None:
        process.kill()
        process.wait()


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, while this lasts: it must not run on alone.

    Ctrl-C itself is among them because a shell starts what it puts into the background with that signal ignored, and the daemon would
    inherit this: it could not be ended before it has set its own handler.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
