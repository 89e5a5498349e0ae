"""Skills of the panel have metrics of their own, and do not dilute those of environments."""

from __future__ import annotations

import pytest
from tests.agent.metrics.worked_example import facts, observation

from perdure.agent.metrics.formulas.gain_and_drop import tradeoff_curve
from perdure.agent.metrics.measured_run import MeasuredRun, measured_runs
from perdure.agent.metrics.metric_table import run_metrics
from perdure.agent.metrics.observation import ResultTable


def run_with_a_panel() -> MeasuredRun:
    """The target rises from 2 to 6 of 10 tasks; `other` falls from 5 to 4, all of them among those right before.

    `grammar` stays at .8 on all 10 items; of `arithmetic` 2 of 10 items fall from .9 to .4.
    """
    rights = {(0, "target"): 2, (1, "target"): 6, (0, "other"): 5, (1, "other"): 4}
    rows = [observation(*place, float(item < right), item=str(item)) for place, right in rights.items() for item in range(10)]
    rows += [observation(1, "other", float(item < 3), item=str(item), update=5) for item in range(10)]
    rows += [observation(1, "target", float(item < 4), item=str(item), update=5) for item in range(10)]
    for stage in (0, 1):
        for item in range(10):
            rows.append(observation(stage, "grammar", 0.8, item=str(item), measure="choice"))
            rows.append(observation(stage, "arithmetic", 0.4 if stage and item < 2 else 0.9, item=str(item), measure="choice"))
            rows.append(observation(stage, "arithmetic", float(item < 6 - 3 * stage), item=str(item), measure="strict"))
        rows.append(observation(stage, "text", 3.0, measure="cross_entropy"))
    (run,) = measured_runs(ResultTable(observations=tuple(rows), facts=(facts(1, "target"),)))
    return run


def test_subjects_are_told_apart_by_their_measures() -> None:
    matrix = run_with_a_panel().main.matrix
    assert matrix.environments() == ["target", "other"]
    assert matrix.skills == {"grammar", "arithmetic", "text"}


def test_drop_is_of_environments_and_panel_drop_of_skills() -> None:
    """Drop .5 - .4, as in the claims of a study; the panel's skills fell by 0 and .1."""
    metrics = run_metrics(run_with_a_panel())
    assert (metrics["gain"], metrics["drop"], metrics["panel_drop"]) == pytest.approx((0.4, 0.1, 0.05))
    assert [point.drop for point in tradeoff_curve(run_with_a_panel().main)] == pytest.approx([0.0, 0.2, 0.1])


def test_recall_and_flips_of_tasks_leave_out_the_items_of_the_panel() -> None:
    """4 of the 5 tasks of `other` that were right; 18 of 20 items of the panel, and 3 of 6 in the asked form."""
    metrics = run_metrics(run_with_a_panel())
    assert (metrics["recall"], metrics["flips_lost"], metrics["flips_gained"]) == (4 / 5, 1 / 10, 0)
    assert (metrics["recall_panel"], metrics["recall_free"]) == (18 / 20, 3 / 6)


def test_drawdown_is_of_environments() -> None:
    """`other` falls from 5 to 3 on the way; the target never falls."""
    metrics = run_metrics(run_with_a_panel())
    assert (metrics["drawdown"], metrics["worst_drawdown"]) == pytest.approx((0.1, 0.2))


def test_without_a_panel_there_is_no_drop_of_it() -> None:
    (run,) = measured_runs(ResultTable(observations=(observation(0, "a", 0.1), observation(1, "a", 0.2)), facts=(facts(1, "a"),)))
    assert run_metrics(run)["panel_drop"] is run_metrics(run)["recall_panel"] is None
