"""What the benchmarks share: a call and its seconds, both sides in turn, the median of their ratios, and the time left."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What a call returns, and the seconds that it took."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def in_turn(ours: Callable[[], Result], peer: Callable[[], Result], run: int) -> tuple[tuple[Result, float], tuple[Result, float]]:
    """Time ours and the peer's. In odd runs the peer is first, so that a machine that slows down slows both."""
    if run % 2:
        second, first = timed(peer), timed(ours)
    else:
        first, second = timed(ours), timed(peer)
    return first, second


def median_ratio(pairs: Iterable[tuple[float, float]]) -> float:
    """The median over the runs of the first number over the second."""
    return statistics.median(first / second for first, second in pairs)


@dataclass(slots=True, kw_only=True)
class TimeLeft:
    """How much of a benchmark is done, in any unit of expected time, and how long the rest will take at the pace so far."""

    total: float
    done: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    def left(self) -> str:
        """Such as `about 3 min left`."""
        if not self.done:
            return "time left not yet known"
        seconds = (time.monotonic() - self._started) * max(0.0, self.total - self.done) / self.done
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {10 * math.ceil(seconds / 10)} s left"


@dataclass(frozen=True, slots=True)
class CaseProgress:
    """Says how many runs of a case are done, the uncounted first one included."""

    case: str
    repeats: int
    plan: TimeLeft
    say: Callable[[str], None]

    def made(self, runs: int) -> None:
        self.plan.done += 1
        self.say(f"{self.case}: {runs} of {self.repeats + 1} runs, {self.plan.left()}")
