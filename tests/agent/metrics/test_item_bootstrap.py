"""Intervals over the items of one run."""

from __future__ import annotations

from random import Random

import pytest
from tests.agent.metrics.worked_example import example_run, facts, observation

from perdure.agent.metrics.item_bootstrap import metrics_over_items
from perdure.agent.metrics.measured_run import MeasuredRun, measured_runs
from perdure.agent.metrics.observation import ResultTable


def run_of(before: list[float], after: list[float], shift: int = 0) -> MeasuredRun:
    """One target, scored at the base and at the end; `shift` gives the items at the end other names."""
    rows = [observation(0, "a", score, item=str(item)) for item, score in enumerate(before)]
    rows += [observation(1, "a", score, item=str(item + shift)) for item, score in enumerate(after)]
    (run,) = measured_runs(ResultTable(observations=tuple(rows), facts=(facts(1, "a"),)))
    return run


def width(run: MeasuredRun) -> float:
    found = metrics_over_items(run)["gain"].estimate
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def test_the_interval_of_paired_items_is_that_of_their_differences() -> None:
    """100 items, half of which gain 1: standard error .05, width about 4 x .05; with other items on the two sides 4 x (2 x .0025)^.5."""
    before, after = [0.0] * 100, [1.0, 0.0] * 50
    assert width(run_of(before, after)) == pytest.approx(0.196, abs=0.05)
    rng = Random(3)
    noisy = [float(rng.random() < 0.5) for _ in range(100)]
    same = run_of(noisy, noisy)
    assert width(same) == 0.0
    assert width(run_of(noisy, noisy, shift=100)) == pytest.approx(0.277, abs=0.07)


def test_costs_have_a_value_and_no_interval() -> None:
    found = metrics_over_items(run_of([0.0] * 10, [1.0] * 10))
    assert (found["updates"].estimate.value, found["updates"].estimate.low, found["updates"].bound) == (10.0, None, None)


def test_the_bound_is_on_the_bad_side() -> None:
    found = metrics_over_items(run_of([0.0] * 100, [1.0, 0.0] * 50))["gain"]
    assert found.bound is not None
    assert found.estimate.low is not None
    assert found.estimate.low < found.bound < 0.5


def test_it_is_repeatable_and_has_the_value_of_the_run() -> None:
    first, again = metrics_over_items(example_run()), metrics_over_items(example_run())
    assert first == again
    assert first["gain"].estimate.value == pytest.approx(0.4)
