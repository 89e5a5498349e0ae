"""Perdure's own commands, run as a person would run them: a process each, with a home and a configuration, and its output in a log.

The daemon gets a time limit here, which it has not by itself: it is asked to end as by Ctrl-C. How long it has run is written down every
few seconds, so that a life can be lived in several sittings.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from perdure.agent.processes.own_command import running_command
from perdure.memory.errors import RuntimeFailure

BEAT_S = 2.0
SAY_EVERY_S = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlace:
    """Where a command works."""

    home: Path
    config: Path

    @property
    def configured(self) -> tuple[str, str]:
        """The option of those commands that read a configuration."""
        return "--config", str(self.config)

    @property
    def log(self) -> Path:
        return self.home.with_suffix(".log")

    @property
    def sittings(self) -> Path:
        """When the daemon ran: a JSON list of pairs of Unix seconds."""
        return self.home.with_suffix(".sittings.json")


@dataclass(frozen=True, slots=True)
class Sitting:
    """A stretch of time in which the daemon ran, in Unix seconds."""

    began: float
    ended: float


def command(place: RunPlace, *arguments: str) -> None:
    """Run a command to its end. Raises `RuntimeFailure` with its last line if it fails; 1, 'the answer is no', is no failure.

    A signal to this process ends it in an orderly way, and raises `KeyboardInterrupt`.
    """
    with _running(place, arguments) as process:
        code = process.wait()
    if code not in (0, 1):
        raise RuntimeFailure(f"`perdure {' '.join(arguments)}` ended with {code}: {_last_line(place.log)} ({place.log})")


def run_daemon(place: RunPlace, seconds: float, say: Say, progress: Callable[[], str]) -> None:
    """Run the daemon until it has run for `seconds` in all sittings together, then end it in an orderly way.

    A signal to this process ends it in the same way, and raises `KeyboardInterrupt`. Raises `RuntimeFailure` if it ends by itself.
    """
    before = read_sittings(place)
    left_s = seconds - sum(sitting.ended - sitting.began for sitting in before)
    if left_s <= 0:
        return
    began, began_s = time.time(), time.monotonic()
    with _running(place, ("run", *place.configured)) as process:
        said_s = began_s
        try:
            while (ran_s := time.monotonic() - began_s) < left_s:
                if process.poll() is not None:
                    raise RuntimeFailure(f"the daemon ended by itself with {process.returncode}: {_last_line(place.log)} ({place.log})")
                _write_sittings(place, [*before, Sitting(began, began + ran_s)])
                if time.monotonic() - said_s >= SAY_EVERY_S:
                    said_s = time.monotonic()
                    say(f"{(seconds - left_s + ran_s) / 60:.0f} of {seconds / 60:.0f} minutes; {progress()}")
                time.sleep(min(BEAT_S, max(0.0, left_s - ran_s)))
        finally:
            _write_sittings(place, [*before, Sitting(began, began + time.monotonic() - began_s)])


def read_sittings(place: RunPlace) -> list[Sitting]:
    return [Sitting(*pair) for pair in json.loads(place.sittings.read_text())] if place.sittings.exists() else []


def minutes_run(sittings: Sequence[Sitting], moment: float) -> float:
    """How many minutes the daemon had run at a moment (Unix seconds)."""
    return sum(max(0.0, min(moment, sitting.ended) - sitting.began) for sitting in sittings) / 60


def _write_sittings(place: RunPlace, sittings: Sequence[Sitting]) -> None:
    partial = place.sittings.with_suffix(".partial")
    partial.write_text(json.dumps([[sitting.began, sitting.ended] for sitting in sittings]))
    partial.replace(place.sittings)


@contextmanager
def _running(place: RunPlace, arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The process of a command while the block lasts, with its output in the log."""
    with place.log.open("ab") as log, running_command(place.home, arguments, stdout=log, stderr=log) as process:
        yield process


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
