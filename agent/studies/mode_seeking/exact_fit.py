"""A check of our own: the same learner with exact gradients and one rate for all five parameters, so that no slow factor holds anything.

The parameters are unbounded: the logit of the weight, the means, and the logs of the deviations. The gradients are integrals over the grid.
Four objectives: forward or reverse KL, to the new mode alone or to the whole target; forward KL to the whole target is replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal

import numpy as np

from perdure.agent.studies.mode_seeking.mixture import (
    NEW_DEVIATION,
    NEW_MEAN,
    NEW_WEIGHT,
    OLD_DEVIATION,
    OLD_MEAN,
    OLD_WEIGHT,
    START,
    Floats,
    density,
    grid,
)
from perdure.agent.studies.mode_seeking.sampled_fit import Direction

Target = Literal["the new mode", "both modes"]
TINY = 1e-300
"""Keeps logs finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactFit:
    """The conditions of a fit."""

    direction: Direction
    target: Target
    rate: float = 0.02
    updates: int = 3000


def fit_exactly(conditions: ExactFit) -> Floats:
    """The learner's parameters before the first and after each update, as `path_T5`, in the form of the sampled fits."""
    x_X = grid("bi-modal")
    width_X = np.full(len(x_X), x_X[1] - x_X[0])
    width_X[[0, -1]] /= 2
    new_X = density(x_X, NEW_MEAN, NEW_DEVIATION)
    p_X = new_X if conditions.target == "the new mode" else OLD_WEIGHT * density(x_X, OLD_MEAN, OLD_DEVIATION) + NEW_WEIGHT * new_X
    weight, mean, deviation, second_mean, second_deviation = START["bi-modal"]
    free_5 = np.array([log(weight / (1 - weight)), mean, log(deviation), second_mean, log(second_deviation)])
    path = [_bounded(free_5)]
    for _ in range(conditions.updates):
        q_X, slope_5X = _density_and_slope(x_X, path[-1])
        descent_X = p_X / q_X if conditions.direction == "forward" else -np.log(q_X / (p_X + TINY))
        free_5 = free_5 + conditions.rate * (slope_5X @ (descent_X * width_X))
        path.append(_bounded(free_5))
    return np.array(path)


def _bounded(free_5: Floats) -> Floats:
    weight = 1 / (1 + np.exp(-free_5[0]))
    return np.array([weight, free_5[1], np.exp(free_5[2]), free_5[3], np.exp(free_5[4])])


def _density_and_slope(x_X: Floats, learner_5: Floats) -> tuple[Floats, Floats]:
    """q, and its derivatives by the unbounded parameters."""
    weight, mean, deviation, second_mean, second_deviation = learner_5
    q1_X, q2_X = weight * density(x_X, mean, deviation), (1 - weight) * density(x_X, second_mean, second_deviation)
    z1_X, z2_X = (x_X - mean) / deviation, (x_X - second_mean) / second_deviation
    slope_5X = np.array(
        [
            (1 - weight) * q1_X - weight * q2_X,
            q1_X * z1_X / deviation,
            q1_X * (z1_X * z1_X - 1),
            q2_X * z2_X / second_deviation,
            q2_X * (z2_X * z2_X - 1),
        ]
    )
    return q1_X + q2_X + TINY, slope_5X
