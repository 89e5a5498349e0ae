"""A learner fitted by gradient steps on samples, in the paper's settings: forward KL for supervised learning, reverse KL for RL.

What the published result rests on is stated as it is in the authors' program, and can be changed one by one:

- The old component and the mixing weight learn 200 times slower than the new component (`slow_factor`), in both directions.
- Forward: samples of the new mode alone; no old data.
- Reverse: samples of the learner's own new component. The reward is log(p_new / q_new / .1) with p_new the new mode alone, normalised: the
  old mode is never in it, so this is not reverse KL to the whole target.
- No `baseline`, though the authors' docstring has one: the reward is far above 0 at its best, so that the new component goes on to gain
  weight. With a baseline the mean reward of the batch is subtracted; with replay, that of the new and that of the old samples.
- `replay`, which the paper lacks: this share of the samples is old. Forward, they come from the old mode. Reverse, they come from the
  learner's own old component and are rewarded for the old mode in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from perdure.agent.studies.mode_seeking.mixture import (
    NEW_DEVIATION,
    NEW_MEAN,
    OLD_DEVIATION,
    OLD_MEAN,
    START,
    Floats,
    Shape,
    density,
)

Direction = Literal["forward", "reverse"]
SLOW_FACTOR = 0.005
SAMPLES = 1000
"""Of each update."""
BETA = 0.1
"""The strength of the KL in the reward."""
DENSITY_FLOOR = 1e-12
"""Added to a bi-modal learner's density: samples far out pull less. The authors' uni-modal learner has none in its gradient."""
LEAST_WEIGHT, LEAST_DEVIATION = 1e-3, 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledFit:
    """The conditions of a fit."""

    shape: Shape
    direction: Direction
    rate: float
    updates: int
    slow_factor: float = SLOW_FACTOR
    new_mean: float = NEW_MEAN
    """Of the target's new mode."""
    replay: float = 0.0
    """The share of old samples."""
    baseline: bool = False
    """Reverse only."""
    drawn_before: int = 0
    """How many numbers of a seed's stream are left out: the authors' program makes its fits one after another on one stream."""


def fit(conditions: SampledFit, seeds: Sequence[int]) -> Floats:
    """The learner's parameters of every seed before the first and after each update, as `path_ST5`."""
    bi_modal = conditions.shape == "bi-modal"
    slow = conditions.slow_factor
    shares = (slow, slow, slow, 1.0, 1.0) if bi_modal else (0.0, 1.0, 1.0, 0.0, 0.0)
    rates_51 = conditions.rate * np.array(shares)[:, None]
    learner_5S = np.repeat(np.array(START[conditions.shape])[:, None], len(seeds), axis=1)
    path = [learner_5S]
    for noise_SN in _noise(conditions, seeds):
        learner_5S = learner_5S + rates_51 * _gradient(conditions, learner_5S, noise_SN)
        if bi_modal:
            learner_5S[0] = learner_5S[0].clip(LEAST_WEIGHT, 1 - LEAST_WEIGHT)
        learner_5S[[2, 4]] = learner_5S[[2, 4]].clip(LEAST_DEVIATION)
        path.append(learner_5S)
    return np.moveaxis(np.array(path), 2, 0)


def _noise(conditions: SampledFit, seeds: Sequence[int]) -> Iterator[Floats]:
    """Standard normal numbers for each update, from a stream for each seed that is the same in every version of numpy."""
    streams = [np.random.RandomState(seed) for seed in seeds]
    for stream in streams:
        stream.standard_normal(conditions.drawn_before)
    for _ in range(conditions.updates):
        yield np.array([stream.standard_normal(SAMPLES) for stream in streams])


def _gradient(conditions: SampledFit, learner_5S: Floats, noise_SN: Floats) -> Floats:
    """The direction of ascent of E log q (forward), or of the expected reward (reverse), as the mean over the samples."""
    weight, mean, deviation, second_mean, second_deviation = learner_5S[:, :, None]
    first_new = round(conditions.replay * SAMPLES)  # the samples before it are old
    x_SN = np.empty_like(noise_SN)
    if conditions.direction == "forward":
        x_SN[:, :first_new] = OLD_MEAN + OLD_DEVIATION * noise_SN[:, :first_new]
        x_SN[:, first_new:] = conditions.new_mean + NEW_DEVIATION * noise_SN[:, first_new:]
    else:
        own = (second_mean, second_deviation) if conditions.shape == "bi-modal" else (mean, deviation)
        x_SN[:, :first_new] = mean + deviation * noise_SN[:, :first_new]
        x_SN[:, first_new:] = own[0] + own[1] * noise_SN[:, first_new:]
    z1_SN, z2_SN = (x_SN - mean) / deviation, (x_SN - second_mean) / second_deviation
    n1_SN = density(x_SN, mean, deviation)
    n2_SN = density(x_SN, second_mean, second_deviation) if conditions.shape == "bi-modal" else np.zeros_like(x_SN)
    q1_SN, q2_SN = weight * n1_SN, (1 - weight) * n2_SN
    floor = DENSITY_FLOOR if conditions.shape == "bi-modal" else 0.0
    if conditions.direction == "forward":
        strength_SN = 1 / (q1_SN + q2_SN + floor)
    else:
        own_SN = np.where(np.arange(SAMPLES) < first_new, q1_SN, q2_SN if conditions.shape == "bi-modal" else q1_SN)
        wanted_SN = density(x_SN, conditions.new_mean, NEW_DEVIATION)
        wanted_SN[:, :first_new] = density(x_SN[:, :first_new], OLD_MEAN, OLD_DEVIATION)
        reward_SN = np.log(wanted_SN / own_SN / BETA + DENSITY_FLOOR)
        if conditions.baseline:
            for samples in (slice(0, first_new), slice(first_new, SAMPLES)):
                reward_SN[:, samples] -= reward_SN[:, samples].sum(axis=1, keepdims=True) / max(1, samples.stop - samples.start)
        strength_SN = reward_SN / (own_SN + floor)  # reward times importance weight, over q
    pull1_SN, pull2_SN = strength_SN * q1_SN, strength_SN * q2_SN
    return np.array(
        [
            np.mean(strength_SN * (n1_SN - n2_SN), axis=1),
            np.mean(pull1_SN * z1_SN, axis=1) / deviation[:, 0],
            np.mean(pull1_SN * (z1_SN * z1_SN - 1), axis=1) / deviation[:, 0],
            np.mean(pull2_SN * z2_SN, axis=1) / second_deviation[:, 0],
            np.mean(pull2_SN * (z2_SN * z2_SN - 1), axis=1) / second_deviation[:, 0],
        ]
    )
