"""Where a gate's curves are drawn: the evidence of each test over the rounds, against the line that it must reach.

Geometry alone, in the units of a view box; `templates/evidence/wealth.html` has the marks. All charts of a gate have the same axes, so that
they can be compared: across, the rounds; upwards, the logarithm of the wealth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from perdure.agent.web.evidence.replayed_gate import ReplayedGate, WealthCurve

WIDTH, HEIGHT = 300, 130
LEFT, RIGHT, TOP, BOTTOM = 4, 40, 8, 16
"""Margins: on the right stand the names of the lines, below the rounds."""
ROOM = 0.6
"""Above the line that is to be reached, and below the one that rejects, in natural logarithms."""
MOST_POINTS = 150
"""Of one curve: with more, some rounds in between are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WealthChart:
    """One test."""

    curve: WealthCurve
    points: str
    """Of a polyline."""
    last: tuple[float, float]
    """The end of the curve."""
    need: float
    """The height of the line that is to be reached, of a wealth of 1, and of the line that rejects."""
    even: float
    futile: float
    passed: bool
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WealthCharts:
    """All tests of a gate."""

    charts: tuple[WealthChart, ...]
    rounds: int
    """To which the axis goes."""
    decides: float | None
    """Where the first round is that can decide; None if the gate did not come so far."""


def wealth_charts(replay: ReplayedGate) -> WealthCharts:
    """Charts of the tests, in their order."""
    rounds = max(replay.rounds, 1)
    low = min((log(curve.futile) for curve in replay.curves), default=0.0) - ROOM
    high = max((max(log(curve.need), *curve.log_wealth) for curve in replay.curves), default=0.0)
    high = min(high, 2 * log(replay.curves[0].need) if replay.curves else 0.0) + ROOM
    return WealthCharts(
        charts=tuple(_chart(curve, rounds, low, high) for curve in replay.curves),
        rounds=rounds,
        decides=_across(replay.least_rounds, rounds) if replay.least_rounds <= replay.rounds else None,
    )


def _chart(curve: WealthCurve, rounds: int, low: float, high: float) -> WealthChart:
    def up(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    values = list(enumerate(curve.log_wealth))
    points = [(_across(n, rounds), up(value)) for n, value in _thinned(values)]
    return WealthChart(
        curve=curve,
        points=" ".join(f"{x:g},{y:g}" for x, y in points),
        last=points[-1],
        need=up(log(curve.need)),
        even=up(0.0),
        futile=up(log(curve.futile)),
        passed=curve.log_wealth[-1] >= log(curve.need),
        rounds=len(values) - 1,
    )


def _across(n: int, rounds: int) -> float:
    return round(LEFT + n / rounds * (WIDTH - LEFT - RIGHT), 1)


def _thinned(values: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    step = max(1, len(values) // MOST_POINTS)
    kept = list(values[::step])
    return kept if kept[-1] == values[-1] else [*kept, values[-1]]
