"""Intervals and tests over seeds against tables and by simulation."""

from __future__ import annotations

from math import isclose, sqrt
from random import Random
from statistics import stdev

import pytest

from perdure.agent.metrics.seed_intervals import (
    BOOTSTRAP_FROM,
    chance_of_more,
    estimate,
    estimate_over_items,
    one_sided_bound,
    paired_estimate,
    seeds_needed,
    student_quantile,
    student_tail,
)


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.975, 4, 2.7764),
        (0.95, 2, 2.9200),
        (0.95, 9, 1.8331),
        (0.975, 30, 2.0423),
        (0.975, 99, 1.9842),
    ],
)
def test_quantiles_of_student(probability: float, freedom: int, quantile: float) -> None:
    """From tables."""
    assert isclose(student_quantile(probability, freedom), quantile, abs_tol=5e-5)
    assert isclose(student_tail(quantile, freedom), 1 - probability, rel_tol=1e-4)
    assert isclose(student_tail(-quantile, freedom), probability, rel_tol=1e-4)


def test_the_interval_of_three_seeds_by_hand() -> None:
    """1, 2, 3: mean 2, standard deviation 1, t(.975, 2) = 4.3027; one-sided t(.95, 2) = 2.92."""
    found = estimate([1.0, 2.0, 3.0])
    assert (found.value, found.n, found.method) == (2.0, 3, "t")
    assert found.low is not None
    assert isclose(found.low, 2 - 4.3027 / sqrt(3), abs_tol=1e-4)
    bound = one_sided_bound([1.0, 2.0, 3.0], "lower")
    assert bound is not None
    assert isclose(bound, 2 - 2.92 / sqrt(3), abs_tol=1e-4)
    assert isclose(one_sided_bound([1.0, 2.0, 3.0], "upper") or 0.0, 2 + 2.92 / sqrt(3), abs_tol=1e-4)


def test_one_seed_has_no_interval() -> None:
    found = estimate([0.5])
    assert (found.low, found.high, found.method) == (None, None, "none")
    assert one_sided_bound([0.5], "lower") is chance_of_more([0.5]) is None


def test_arms_are_compared_seed_by_seed() -> None:
    """Seeds differ by far more than the arms; the differences are .1, .1, .13 and one seed is in one arm only. t(.975, 2) = 4.3027."""
    found = paired_estimate({1: 0.9, 2: 0.5, 3: 0.2, 4: 0.7}, {3: 0.07, 1: 0.8, 2: 0.4})
    assert found is not None
    assert (round(found.value, 9), found.n) == (0.11, 3)
    assert found.high is not None
    assert isclose(found.high - found.value, 4.3027 * 0.01, rel_tol=1e-4)
    assert paired_estimate({1: 0.5}, {2: 0.5}) is None


@pytest.mark.parametrize("n", [3, 5, 12])
def test_intervals_hold_the_mean_as_often_as_they_say(n: int) -> None:
    """400 samples each: 95 % less four standard errors; the bootstrap of 12 skewed values is known to hold it somewhat less often."""
    rng = Random(n)
    held = 0
    for _ in range(400):
        found = estimate([rng.expovariate(1) if n >= BOOTSTRAP_FROM else rng.gauss(1, 1) for _ in range(n)])
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1 <= found.high
    assert held >= 400 * (0.86 if n >= BOOTSTRAP_FROM else 0.906)
    assert held <= 400 * 0.994


def test_the_bootstrap_is_repeatable_and_follows_skew() -> None:
    values = [0.0] * 9 + [1.0, 2.0, 4.0]
    found = estimate(values)
    assert found == estimate(values)
    assert found.method == "bootstrap"
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.value > found.value - found.low > 0


def test_the_t_test_by_hand() -> None:
    """Mean 2, standard error 1 / sqrt 3: t = 3.4641 with 2 degrees, P(T > 3.4641) = .0371; against 2 it is one half."""
    assert isclose(chance_of_more([1.0, 2.0, 3.0]) or 0.0, 0.0371, abs_tol=1e-4)
    assert isclose(chance_of_more([1.0, 2.0, 3.0], than=2.0) or 0.0, 0.5)


@pytest.mark.parametrize("values", [[1 / 128] * 3, [0.9 - 0.8, 0.5 - 0.4, 0.2 - 0.1], [0.0] * 12, [24.0, 24.0]])
def test_values_that_are_all_the_same_make_nothing_certain(values: list[float]) -> None:
    """Three seeds of 128 tasks that all differ by one task: another seed may differ by another number."""
    found = estimate(values)
    assert (found.low, found.high, found.method, found.n) == (None, None, "none", len(values))
    assert one_sided_bound(values, "lower") is chance_of_more(values) is None


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(0, 64, 0.0, 0.0560), (64, 64, 0.9440, 1.0), (1, 10, 0.0025, 0.4450), (5, 10, 0.1871, 0.8129)]
)
def test_a_share_of_one_run_has_an_exact_interval(right: int, n: int, low: float, high: float) -> None:
    """From tables of Clopper & Pearson; none right of n has the upper end 1 - .025^(1/n)."""
    found = estimate_over_items([[1.0] * right + [0.0] * (n - right)], least=0.0, most=1.0)
    assert found is not None
    assert (found.value, found.n, found.method) == (right / n, n, "exact")
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_an_interval_over_items_ends_where_scores_do() -> None:
    """.9 and .95, .99: t alone would go above 1. Of a cross-entropy it may."""
    scores = [0.9, 0.99, 0.99, 0.6]
    inside, open_ended = estimate_over_items([scores], least=0.0, most=1.0), estimate_over_items([scores])
    assert inside is not None
    assert open_ended is not None
    assert open_ended.high is not None
    assert inside.high == 1.0 < open_ended.high
    assert inside.low == open_ended.low


def test_from_ten_seeds_on_an_interval_is_no_narrower_than_that_of_t() -> None:
    """The bootstrap of ten values is about 18 % narrower; what it shows, the t test of a claim must show too."""
    values = [0.03, -0.01, 0.05, 0.02, 0.0, 0.04, -0.02, 0.03, 0.01, 0.06]
    found, bound = estimate(values), one_sided_bound(values, "lower")
    width = student_quantile(0.975, 9) * stdev(values) / sqrt(10)
    assert found.low is not None
    assert found.high is not None
    assert bound is not None
    assert found.low <= 0.021 - width + 1e-12
    assert found.high >= 0.021 + width - 1e-12
    assert bound <= 0.021 - student_quantile(0.95, 9) * stdev(values) / sqrt(10) + 1e-12


def test_as_many_seeds_as_are_needed_suffice_four_times_in_five() -> None:
    """A mean of .05 with a standard deviation of .05: by table 8 seeds (Cohen 1988, d = 1, one-sided .05, power .8)."""
    n = seeds_needed(0.05, 0.05)
    assert n in (8, 9)
    rng = Random(1)
    shown = sum((chance_of_more([rng.gauss(0.05, 0.05) for _ in range(n)]) or 0.0) < 0.05 for _ in range(500))
    assert 0.74 < shown / 500 < 0.9
    assert seeds_needed(0.05, 0.0) is seeds_needed(10.0, 0.01) is None


def test_items_of_one_run_add_their_variances() -> None:
    """Variances of the means 1/12 and 1/3 x 1/2: (1/12 + 1/6)^.5 / 2 = 1/4; degrees (1/4)^2 / ((1/12)^2 / 3 + (1/6)^2 / 1) = 2.0769."""
    first, second = [1.0, 0.0, 1.0, 0.0], [0.5, 0.5 + (2 / 3) ** 0.5]
    found = estimate_over_items([first, second])
    assert found is not None
    assert (found.n, found.of) == (6, "items")
    assert found.high is not None
    assert isclose(found.high - found.value, 0.25 * student_quantile(0.975, 0.0625 / (1 / 432 + 1 / 36)), rel_tol=1e-9)
    assert estimate_over_items([[1.0], first]) is not None
    assert estimate_over_items([[], []]) is None
