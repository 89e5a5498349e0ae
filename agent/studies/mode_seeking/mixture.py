"""The mixture of an old and a new mode, and how much of each a learner covers.

Settings, formulas and numbers are those of Chen, Razin, Narasimhan and Chen, 'Retaining by Doing' (2025, arXiv 2510.18874), and of the
program that its authors published with it (princeton-pli/retaining-by-doing, `simulation/`, at 1228541). The code is our own.

Axes: T updates, S seeds, N samples, X places of the grid, 5 parameters of a learner (`weight`, `mean` and `deviation` of its old component,
`mean` and `deviation` of its new one; the new one has the rest of the weight).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Shape = Literal["uni-modal", "bi-modal"]
SHAPES: tuple[Shape, ...] = ("uni-modal", "bi-modal")

OLD_WEIGHT, OLD_MEAN, OLD_DEVIATION = 0.75, -3.0, 1.0
NEW_WEIGHT, NEW_MEAN, NEW_DEVIATION = 0.25, 3.5, 0.7
"""The target: .75 N(-3, 1), the old mode, and .25 N(3.5, .7), the new one."""

START: dict[Shape, tuple[float, ...]] = {"bi-modal": (0.75, -3.5, 1.0, 0.5, 0.7), "uni-modal": (1.0, -3.5, 1.0, 0.5, 0.7)}
"""Of the learner. A uni-modal one is its old component alone, with all the weight."""
GRID: dict[Shape, tuple[float, float]] = {"bi-modal": (-8.0, 8.0), "uni-modal": (-10.0, 10.0)}
GRID_POINTS = 500
GAIN_READ = 0.9
"""The drop is read at the first update that reaches this gain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeReading:
    """What a learner gained and lost at one update."""

    update: int
    """Counted from 0, as in the numbers that are published."""
    gain: float
    """Overlap with the new mode, above that at the start."""
    drop: float
    """Overlap with the old mode at the start, less that now."""
    old_weight: float


def density(x: Floats, mean: Floats | float, deviation: Floats | float) -> Floats:
    """Of a normal distribution."""
    z = (x - mean) / deviation
    return np.asarray(np.exp(-0.5 * z * z) / (deviation * sqrt(2 * pi)))


def grid(shape: Shape) -> Floats:
    """The places at which overlaps are measured."""
    return np.linspace(*GRID[shape], GRID_POINTS)


def overlaps(path_T5: Floats, shape: Shape, new_mean: float = NEW_MEAN) -> tuple[Floats, Floats]:
    """How much of the old and of the new mode a learner covers after each update.

    Of mode k it is the area of min(p_k, q_k) over that of p_k, where p_k and q_k are the weighted components of target and learner (the
    authors' `run.py`). A uni-modal learner is its whole density for both modes. Trapezoid rule.
    """
    x_X = grid(shape)
    weight, mean, deviation, second_mean, second_deviation = (column[:, None] for column in path_T5.T)
    first_TX = weight * density(x_X, mean, deviation)
    second_TX = first_TX if shape == "uni-modal" else (1 - weight) * density(x_X, second_mean, second_deviation)
    old_X = OLD_WEIGHT * density(x_X, OLD_MEAN, OLD_DEVIATION)
    new_X = NEW_WEIGHT * density(x_X, new_mean, NEW_DEVIATION)
    step = x_X[1] - x_X[0]
    return _area(np.minimum(old_X, first_TX), step) / _area(old_X, step), _area(np.minimum(new_X, second_TX), step) / _area(new_X, step)


def readings(path_T5: Floats, shape: Shape, new_mean: float = NEW_MEAN) -> list[ModeReading]:
    """Gain and drop after each update; the path begins with the learner as it starts."""
    old_T, new_T = overlaps(path_T5, shape, new_mean)
    return [
        ModeReading(update=n, gain=float(new - new_T[0]), drop=float(old_T[0] - old), old_weight=float(weight))
        for n, (old, new, weight) in enumerate(zip(old_T[1:], new_T[1:], path_T5[1:, 0], strict=True))
    ]


def at_gain(found: Sequence[ModeReading], gain: float = GAIN_READ) -> ModeReading | None:
    """The first one with this gain; None if it is never reached."""
    return next((reading for reading in found if reading.gain >= gain), None)


def _area(values: Floats, step: float) -> Floats:
    return np.asarray((values.sum(axis=-1) - (values[..., 0] + values[..., -1]) / 2) * step)
