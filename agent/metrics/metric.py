"""What a metric is: its name, formula and source, its unit, which direction is better, and how it is read off a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from perdure.agent.metrics.formulas.flips import FlipCounts
from perdure.agent.metrics.measured_run import MeasuredRun
from perdure.agent.metrics.run_readings import RunsBeside

Better = Literal["higher", "lower", "neither"]
Unit = Literal["score", "share", "nats a token", "updates", "tokens", "seconds"]
"""A score lies in [0, 1], and so does a share of items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipReading:
    """A number of the flips of one measure."""

    measure: str
    value: Callable[[FlipCounts], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric."""

    key: str
    name: str
    formula: str
    """R[i][j] is the score of subject j after stage i of T; stage 0 is the base."""
    source: str
    unit: Unit
    better: Better
    of_run: Callable[[MeasuredRun, RunsBeside], float | None] = field(repr=False)
    """None if the run lacks what it needs."""
    flips: FlipReading | None = field(default=None, repr=False)
    """Of a metric of flips: which, so that an interval over items need not count them again."""
