"""Intervals over the items of one run."""

from __future__ import annotations

from random import Random
from time import process_time

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
    nearly = [1 - noisy[0], *noisy[1:]]
    assert 0.0 < width(run_of(noisy, nearly)) < 0.05
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


def test_what_is_the_same_in_all_draws_is_not_certain() -> None:
    """Nothing changed on any of 100 tasks: other tasks might have, and these cannot say how much."""
    gain = metrics_over_items(run_of([0.0, 1.0] * 50, [0.0, 1.0] * 50))["gain"]
    assert (gain.estimate.value, gain.estimate.low, gain.estimate.high, gain.bound) == (0.0, None, None, None)


def test_each_metric_says_of_how_many_items_it_is() -> None:
    """8 tasks of the target and 5 of `other` on both sides, 3 of `once` with the base alone, and 6 items of the panel."""
    rows = [observation(stage, "a", float((item + stage) % 3 == 0), item=str(item)) for stage in (0, 1) for item in range(8)]
    rows += [observation(stage, "other", float(item > stage), item=str(item)) for stage in (0, 1) for item in range(5)]
    rows += [observation(0, "once", 0.5, item=str(item)) for item in range(3)]
    rows += [
        observation(stage, "maths", 0.9 - stage * item / 10, item=str(item), measure="choice") for stage in (0, 1) for item in range(6)
    ]
    rows += [observation(1, "a", 0.1, measure="kl_new")]
    (run,) = measured_runs(ResultTable(observations=tuple(rows), facts=(facts(1, "a"),)))
    found = metrics_over_items(run)
    numbers = {key: found[key].estimate.n for key in ("gain", "drop", "acc", "panel_drop", "recall", "recall_panel", "kl_new", "updates")}
    assert numbers == {"gain": 8, "drop": 5, "acc": 8, "panel_drop": 6, "recall": 5, "recall_panel": 6, "kl_new": 1, "updates": 0}
    assert found["drop"].estimate.low is not None


def test_metrics_of_curves_have_no_interval() -> None:
    """The checks within stages are means already."""
    rows = [observation(stage, "a", float(item < 4 * stage + 2), item=str(item)) for stage in (0, 1) for item in range(8)]
    rows += [observation(1, "a", float(item < 4), item=str(item), update=5) for item in range(8)]
    (run,) = measured_runs(ResultTable(observations=tuple(rows), facts=(facts(1, "a"),)))
    found = metrics_over_items(run)
    assert found["auc"].estimate.value == pytest.approx((0.25 + 2 * 0.5 + 0.75) / 4)
    assert found["auc"].estimate.low is found["worst_drawdown"].estimate.low is None
    assert found["gain"].estimate.low is not None


def test_an_interval_of_flips_is_that_of_the_items() -> None:
    """Of 100 tasks that were right 80 are: recall .8, standard error .04. Of several answers to a task three in four cover it."""
    rows = [observation(0, "b", 1.0, item=str(item)) for item in range(100)]
    rows += [observation(1, "b", float(item < 80), item=str(item)) for item in range(100) for _ in range(4)]
    (run,) = measured_runs(ResultTable(observations=tuple(rows), facts=(facts(1, "a"),)))
    for key in ("recall", "coverage"):
        found = metrics_over_items(run)[key].estimate
        assert found.value == pytest.approx(0.8)
        assert found.low is not None
        assert found.high is not None
        assert found.high - found.low == pytest.approx(0.157, abs=0.04)


def test_a_hundred_thousand_tasks_are_quick() -> None:
    """Ten environments at two stages, all tasks distinct: less than half of the time that a report may take."""
    rng = Random(0)
    rows = [
        observation(stage, f"e{subject}", float(rng.random() < 0.5), item=str(item + 10_000 * stage * (item % 2)))
        for subject in range(10)
        for item in range(6_667)
        for stage in (0, 1)
    ]
    (run,) = measured_runs(ResultTable(observations=tuple(rows), facts=(facts(1, "e0", "e1"),)))
    started = process_time()
    assert metrics_over_items(run)["drop"].estimate.n == pytest.approx(8 / 10 * 100_000, rel=0.01)
    assert process_time() - started < 10
