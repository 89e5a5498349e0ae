"""A run that delivers an earlier update than its last, and has its last one tested too: what belongs to the one and what to the other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.agent.metrics.worked_example import facts, observation

from perdure.agent.metrics.measured_run import MeasuredRun, Point, measured_runs
from perdure.agent.metrics.metric_table import run_metrics
from perdure.agent.metrics.observation import ResultTable
from perdure.agent.studies.report.sections.curve_paths import path_of_subject

DELIVERED = 4
DEV = ((0, 0.1), (4, 0.5), (8, 0.7), (12, 0.9))


def run_that_delivers_early(*, with_last: bool) -> MeasuredRun:
    """On test tasks .2, then .6 as it is delivered after 4 updates, and .8 after all 12; `other` .8, .7 and .3."""
    rows = [
        observation(stage, subject, score) for stage, subject, score in ((0, "a", 0.2), (1, "a", 0.6), (0, "other", 0.8), (1, "other", 0.7))
    ]
    rows += [observation(1, "a", 0.8, update=12), observation(1, "other", 0.3, update=12)] if with_last else []
    rows += [observation(bool(n), "a", score, update=n or None, measure="sampled_dev") for n, score in DEV]
    (run,) = measured_runs(ResultTable(observations=tuple(rows), facts=(replace(facts(1, "a"), updates=DELIVERED),)))
    return run


def test_the_end_stands_at_the_update_that_was_delivered() -> None:
    run = run_that_delivers_early(with_last=True)
    assert run.main.curves[1, "a"] == [Point(0, 0.2), Point(4, 0.6), Point(12, 0.8)]
    assert path_of_subject(run, "a", "main", by_update=True) == {0.0: 0.2, 4.0: 0.6, 12.0: 0.8}
    assert path_of_subject(run, "a", "main", by_update=False) == {0.0: 0.2, 1.0: 0.6}
    assert path_of_subject(run, "a", "sampled_dev", by_update=True) == {0.0: 0.1, 4.0: 0.5, 8.0: 0.7, 12.0: 0.9}


def test_a_fall_after_the_update_that_was_delivered_is_none_of_the_run() -> None:
    """`other` fell by .1 up to what was delivered, and by .5 up to the last update."""
    for with_last in (True, False):
        metrics = run_metrics(run_that_delivers_early(with_last=with_last))
        assert (metrics["drop"], metrics["worst_drawdown"], metrics["drawdown"]) == pytest.approx((0.1, 0.1, 0.05))


def test_areas_are_of_the_checks_on_dev_tasks_whether_or_not_the_last_update_was_tested() -> None:
    """Trapezoids of .1, .5, .7, .9, each 4 updates wide: (.3 + .6 + .8) / 3. LCA: .1 to .5 in steps of .1, .55 to .7, then .75 and .8."""
    found = [run_metrics(run_that_delivers_early(with_last=with_last)) for with_last in (True, False)]
    assert [one["auc"] for one in found] == pytest.approx([1.7 / 3] * 2)
    assert [one["lca"] for one in found] == pytest.approx([(1.5 + 2.5 + 1.55) / 11] * 2)
