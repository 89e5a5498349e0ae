"""What the benchmarks share: a call and its seconds, both sides in turn, and the median of their ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
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
