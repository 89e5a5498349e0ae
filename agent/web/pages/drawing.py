"""Figures for the eye: curves that stand in a page itself, and what its charts are drawn from.

A chart is a mapping that `static/perdure.js` understands. Left out: the drawing of it (uPlot), and the numbers beside it, which a page has
in a table or a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from perdure.agent.show.terminal import visible
from perdure.memory.json_value import Document

HEIGHT = 40.0
WIDTH = 200.0


def curve(values: Sequence[float | None]) -> Document | None:
    """The points of a small curve in a box of 200 x 40, with its last value and its range; None of fewer than two values."""
    known = [(n, value) for n, value in enumerate(values) if value is not None and math.isfinite(value)]
    if len(known) < 2:
        return None
    low, high = min(value for _, value in known), max(value for _, value in known)
    span, last = (high - low) or 1.0, known[-1][0] or 1
    points = " ".join(f"{n / last * WIDTH:.1f},{HEIGHT - (value - low) / span * HEIGHT:.1f}" for n, value in known)
    return {"points": points, "last": known[-1][1], "low": low, "high": high, "first": known[0][1]}


def line(label: str, values: Sequence[float | None], low: Sequence[float | None] = (), high: Sequence[float | None] = ()) -> Document:
    """A series of a chart, with the ends of its intervals if there are any."""
    series: Document = {"label": visible(label), "values": [finite(value) for value in values]}
    if any(value is not None for value in low):
        series |= {"low": [finite(value) for value in low], "high": [finite(value) for value in high]}
    return series


def chart(x: Sequence[float], series: Sequence[Document], **more: object) -> Document:
    """A chart. `more`: time, unit, marks, lines, span (of x), range (of y), log, as `static/perdure.js` says."""
    return {"x": list(x), "series": list(series), **more}


def finite(value: float | None) -> float | None:
    """JSON has no other numbers."""
    return value if value is not None and math.isfinite(value) else None


def aligned(points: Mapping[str, Sequence[tuple[float, float | None]]]) -> tuple[list[float], dict[str, list[float | None]]]:
    """Curves on one axis: all x in order, and the values of each curve at them, None if it has no value there."""
    xs = sorted({x for curve_points in points.values() for x, _ in curve_points})
    values = {name: dict(curve_points) for name, curve_points in points.items()}
    return xs, {name: [known.get(x) for x in xs] for name, known in values.items()}
