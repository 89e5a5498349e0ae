"""Intervals: they cover, they narrow, and one is worked by hand."""

from __future__ import annotations

import math
from random import Random

import pytest

from perdure.learners.gate.intervals import mean_interval, score_interval


def test_the_interval_covers_and_narrows() -> None:
    rng = Random(5)
    missed = 0
    for _ in range(200):
        values = [[rng.choice([-1.0, 0.0, 0.0, 0.0, 1.0, 1.0])] for _ in range(60)]
        low, high = mean_interval(values, low=-1, high=1)
        missed += not low <= 1 / 6 <= high
    assert missed <= 200 * 0.05
    assert mean_interval([], low=-1, high=1) == pytest.approx((-1, 1), abs=1e-6)
    widths = [high - low for low, high in (mean_interval([[0.0]] * n, low=-1, high=1) for n in (5, 20, 80))]
    assert widths[0] > widths[1] > widths[2] > 0
    several = mean_interval([[0.0, 0.5]] * 40, low=0, high=1)
    assert several[0] < 0.25 < several[1]
    assert several[1] - several[0] < 0.5


def test_interval_of_scores_is_that_of_the_chernoff_bound() -> None:
    assert score_interval([]) == (0.0, 1.0)
    low, high = score_interval([0.0] * 100)
    assert (low, high) == pytest.approx((0.0, 1 - 0.025 ** (1 / 100)), abs=1e-5)  # where nothing succeeded, (1 - m)^n = .025
    assert score_interval([1.0] * 100) == pytest.approx((1 - high, 1.0), abs=1e-5)
    low, high = score_interval([0.5] * 50)
    assert low == pytest.approx(1 - high)
    assert 0.5 * math.log(0.25 / (high * low)) == pytest.approx(math.log(40) / 50, abs=1e-4)  # KL(1/2, m) = -log(4 m (1 - m)) / 2


def test_interval_of_scores_covers() -> None:
    draws = Random(0)
    for p in (0.05, 0.5, 0.9):
        missed = 0
        for _ in range(400):
            low, high = score_interval([float(draws.random() < p) for _ in range(40)])
            missed += not low <= p <= high
        assert missed / 400 <= 0.05
