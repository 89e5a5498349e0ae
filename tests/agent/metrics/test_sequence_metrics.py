"""The metrics of a sequence against numbers worked out by hand; the R matrix is in `worked_example.py`."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from tests.agent.metrics.worked_example import example_run, facts, matrix_of, observation

from perdure.agent.metrics.formulas.accuracy import average_accuracy, average_incremental_accuracy
from perdure.agent.metrics.formulas.forgetting_measures import forgetting_by_chance, forgetting_from_best, forgetting_since_learned
from perdure.agent.metrics.formulas.gain_and_drop import Tradeoff, drop_at_gain, tradeoff_curve
from perdure.agent.metrics.formulas.learning_speed import area_under_curve, learning_curve_area, relearning_savings, updates_to_reach
from perdure.agent.metrics.formulas.transfer import backward_transfer, forward_transfer
from perdure.agent.metrics.measured_run import MeasuredRun, Point, measured_runs
from perdure.agent.metrics.metric_table import run_metrics
from perdure.agent.metrics.observation import ResultTable
from perdure.agent.metrics.run_readings import RunsBeside

BY_HAND = {
    "gain": 0.4,  # (.4 + .3 + .5) / 3
    "drop": 0.2,  # .8 - .6
    "acc": 0.7,  # (.6 + .6 + .9) / 3
    "aia": 0.825,  # (.9 + (.95 + .8) / 2 + .7) / 3
    "learned": 2.6 / 3,  # (.9 + .8 + .9) / 3
    "bwt": -0.25,  # ((.6 - .9) + (.6 - .8)) / 2
    "fwt": 0.075,  # ((.35 - .3) + (.5 - .4)) / 2
    "forgetting_best": 0.275,  # ((.95 - .6) + (.8 - .6)) / 2
    "forgetting_first": 0.25,  # ((.9 - .6) + (.8 - .6)) / 2
    "retention": 1.2 / 1.7,  # (.6 + .6) / (.9 + .8)
    "min_acc": 0.55,  # (.5 + .6) / 2
    "wc_acc": 2 / 3,  # .9 / 3 + 2 / 3 x .55
    "stability_gap": 0.3,  # ((.9 - .5) + (.8 - .6)) / 2
    "drawdown": 0.2,  # (.4 + .2 + 0 + .2) / 4
    "worst_drawdown": 0.4,
    "stateless_gain": 11 / 30,  # 6 / 9 - .3
    "normalised_gain": 11 / 21,  # (6 / 9 - .3) / .7
    "updates": 30.0,
    "tokens": 600.0,
    "seconds": 1.5,
}


@pytest.mark.parametrize("key", BY_HAND)
def test_the_worked_example(key: str) -> None:
    assert run_metrics(example_run())[key] == pytest.approx(BY_HAND[key])


def test_with_one_stage_nothing_was_learned_before_the_last() -> None:
    """GEM divides by T - 1: with one stage there is no backward or forward transfer, and no forgetting."""
    matrix = matrix_of([[0.1], [0.8]])
    assert average_accuracy(matrix) == average_incremental_accuracy(matrix) == 0.8
    assert backward_transfer(matrix) is forward_transfer(matrix) is None
    assert forgetting_from_best(matrix) is forgetting_since_learned(matrix) is None


def test_the_maximum_is_taken_before_the_last_stage() -> None:
    """Task 1 goes .5, .4, .7: its best before was .5, so it is -.2 forgotten. Mammoth's maximum over all stages would say 0."""
    assert forgetting_from_best(matrix_of([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.4, 0.6, 0.0], [0.7, 0.6, 0.9]])) == pytest.approx(-0.1)


def test_what_was_not_measured_is_left_out() -> None:
    table_rows = [observation(0, "a", 0.2), observation(1, "a", 0.6), observation(2, "b", 0.5)]
    (run,) = measured_runs(ResultTable(observations=tuple(table_rows), facts=(facts(1, "a"), facts(2, "b"))))
    metrics = run_metrics(run)
    assert metrics["acc"] == 0.5  # a has no score at the end
    assert metrics["bwt"] is metrics["gain"] is metrics["drop"] is None


def by_chance(rates: list[float], items: int = 200, shared: int = 200, seed: int = 18) -> tuple[float | None, float | None]:
    """Forgetting from the best, and its bias, of one subject whose items are right by chance with these rates after stages 1, 2, ...

    The first `shared` items are the same at all stages, and the others are of each stage alone.
    """
    rng = Random(seed)
    rows = [
        observation(stage, "a", float(rng.random() < rate), item=str(item if item < shared else 1000 * stage + item))
        for stage, rate in enumerate(rates, start=1)
        for item in range(items)
    ]
    targets = [facts(1, "a"), *(facts(stage, "b") for stage in range(2, len(rates) + 1))]
    (run,) = measured_runs(ResultTable(observations=tuple(rows), facts=tuple(targets)))
    return forgetting_from_best(run.main.matrix), forgetting_by_chance(run.main)


def test_the_bias_of_the_maximum_is_what_an_unchanged_version_shows() -> None:
    """The mean of the largest of 7 independent normal means is 1.352 standard deviations above their mean: here 1.352 x (.25 / 200)^.5."""
    _, bias = by_chance([0.5] * 8)
    assert bias == pytest.approx(1.352 * (0.25 / 200) ** 0.5, rel=0.1)


@pytest.mark.parametrize("shared", [0, 1, 100, 199])
def test_the_bias_is_known_too_if_stages_scored_other_items(shared: int) -> None:
    """A gate draws fresh tasks: with none or only some shared the means are as noisy, and so is their maximum."""
    biases = [by_chance([0.5] * 8, shared=shared, seed=seed)[1] or 0.0 for seed in range(3)]
    assert sum(biases) / 3 == pytest.approx(1.352 * (0.25 / 200) ** 0.5, rel=0.1)


def test_the_bias_follows_how_many_items_each_stage_has() -> None:
    """Seven stages of 400 items that share none, and a last one of 50: its noise has mean 0, the others' maximum 1.352 x (.25 / 400)^.5."""
    rng = Random(5)
    rows = [
        observation(stage, "a", float(rng.random() < 0.5), item=f"{stage}-{item}")
        for stage in range(1, 9)
        for item in range(50 if stage == 8 else 400)
    ]
    (run,) = measured_runs(ResultTable(observations=tuple(rows), facts=(facts(1, "a"), facts(8, "b"))))
    assert forgetting_by_chance(run.main) == pytest.approx(1.352 * (0.25 / 400) ** 0.5, rel=0.3)


def test_two_versions_of_other_items_that_are_equally_good_have_no_bias() -> None:
    """With one stage before the last there is no maximum, whichever items they have."""
    assert by_chance([0.5, 0.5], shared=0)[1] == pytest.approx(0.0, abs=0.01)


def test_greedy_answers_that_never_change_have_no_bias() -> None:
    assert by_chance([1.0] * 8) == (0.0, 0.0)


def test_a_real_loss_is_above_the_bias() -> None:
    found, bias = by_chance([0.8, 0.8, 0.8, 0.4])
    assert found is not None
    assert bias is not None
    assert found > 0.3 > 0.1 > bias


def run_that_learned(arm: str, subject: str, end: float, middle: float) -> MeasuredRun:
    rows = (
        observation(0, subject, 0.2, arm=arm),
        observation(1, subject, middle, arm=arm, update=5),
        observation(1, subject, end, arm=arm),
    )
    (run,) = measured_runs(ResultTable(observations=rows, facts=(facts(1, subject, arm=arm),)))
    return run


def test_intransigence_against_joint_and_single_tasks() -> None:
    """R[j][j] is .9, .8, .9. The joint run has .8 of a only; single-task runs have .95 of a and .9 of b."""
    beside = RunsBeside(
        joint=[run_that_learned("joint", "a", 0.8, 0.5)],
        single=[run_that_learned("single", "a", 0.95, 0.5), run_that_learned("single", "b", 0.9, 0.5)],
    )
    metrics = run_metrics(example_run(), beside)
    assert metrics["intransigence_joint"] == pytest.approx(-0.1)
    assert metrics["intransigence_single"] == pytest.approx(0.075)
    assert run_metrics(example_run())["intransigence_joint"] is None


def test_transfer_as_area() -> None:
    """Curves .2, .6, 1 and .2, .2, 1 have the areas .6 and .4: (.6 - .4) / (1 - .4)."""
    run = run_that_learned("x", "a", 1.0, 0.6)
    metrics = run_metrics(run, RunsBeside(single=[run_that_learned("single", "a", 1.0, 0.2)]))
    assert metrics["auc"] == pytest.approx(0.6)
    assert metrics["area_transfer"] == pytest.approx(1 / 3)


def single_runs() -> list[MeasuredRun]:
    """Two orders of a run that learns each subject from the base: b is learned in stage 2 of one, and in stage 1 of the other.

    Its curves are .3, .5, 1 and .3, .7, 1, whatever the model of a scored on b.
    """
    found = []
    for order, (first, second) in {"ab": ("a", "b"), "ba": ("b", "a")}.items():
        rows = [(0, None, "a", 0.2), (0, None, "b", 0.3), (1, None, "b", 0.9 if first == "a" else 1.0), (2, None, "b", 1.0)]
        rows += [(2, 5, "b", 0.5)] if second == "b" else [(1, 5, "b", 0.7)]
        observations = [
            replace(observation(stage, subject, score, arm="single", update=update), order=order) for stage, update, subject, score in rows
        ]
        stages = [replace(facts(n, name, arm="single"), order=order) for n, name in ((1, first), (2, second))]
        found += measured_runs(ResultTable(observations=tuple(observations), facts=tuple(stages)))
    return found


def test_the_reference_of_a_single_task_begins_at_the_base_in_every_stage() -> None:
    in_order_ab, in_order_ba = single_runs()
    assert in_order_ab.main.curves[2, "b"] == [Point(0, 0.3), Point(5, 0.5), Point(10, 1.0)]
    assert in_order_ba.main.curves[1, "b"] == [Point(0, 0.3), Point(5, 0.7), Point(10, 1.0)]


def test_transfer_as_area_is_against_the_mean_of_the_orders() -> None:
    """Areas of the references .575 and .675, in the mean .625; a curve .2, .8, 1 has .7: (.7 - .625) / (1 - .625)."""
    run = run_that_learned("x", "b", 1.0, 0.8)
    for references in (single_runs(), single_runs()[::-1]):
        assert run_metrics(run, RunsBeside(single=references))["area_transfer"] == pytest.approx(0.075 / 0.375)


CURVE = [Point(0, 0.0), Point(4, 0.8), Point(12, 1.0)]


def test_areas_under_a_curve() -> None:
    """Trapezoids: 4 x .4 + 8 x .9 = 8.8 over 12 updates. LCA_4: scores 0, .2, .4, .6, .8."""
    assert area_under_curve(CURVE) == pytest.approx(8.8 / 12)
    assert learning_curve_area(CURVE, 4) == pytest.approx(0.4)
    assert learning_curve_area(CURVE, 13) is None
    assert learning_curve_area(CURVE[1:], 4) is None
    assert area_under_curve(CURVE[:1]) is None


def test_savings() -> None:
    """90 % of the way from 0 to 1 is reached after 8 updates at first (.8 at 4, 1 at 12), and after 2 again: 6 of 8 are saved."""
    assert updates_to_reach(CURVE, 0.9) == pytest.approx(8)
    assert relearning_savings(CURVE, [Point(0, 0.5), Point(2, 0.9)]) == pytest.approx(0.75)
    assert relearning_savings(CURVE, [Point(0, 0.95)]) == 1.0
    assert relearning_savings(CURVE, [Point(0, 0.5), Point(12, 0.7)]) == pytest.approx(-0.5), "12 updates did not suffice"
    assert relearning_savings(CURVE, [Point(0, 0.5), Point(4, 0.7)]) == 0.0, "4 updates did not suffice, which is no saving"
    assert relearning_savings(CURVE, []) is None
    assert relearning_savings([Point(0, 0.5), Point(9, 0.4)], CURVE) is None


def test_savings_of_a_run_that_learns_a_subject_twice() -> None:
    rows = [observation(0, "a", 0.0), observation(1, "a", 1.0), observation(2, "a", 0.5), observation(3, "a", 1.0)]
    checks = [observation(1, "a", 0.9, update=8), observation(3, "a", 0.9, update=2)]
    (run,) = measured_runs(ResultTable(observations=(*rows, *checks), facts=(facts(1, "a"), facts(2, "b"), facts(3, "a"))))
    assert run_metrics(run)["savings"] == pytest.approx(0.75)


def test_the_drop_at_matched_gain() -> None:
    """Half way from gain .2 to .4 the drop is half way from .1 to .3."""
    curve = [Tradeoff(0.0, 0.0), Tradeoff(0.2, 0.1), Tradeoff(0.4, 0.3), Tradeoff(0.3, 0.9)]
    assert drop_at_gain(curve, 0.3) == pytest.approx(0.2)
    assert drop_at_gain(curve, 0.4) == pytest.approx(0.3)
    assert drop_at_gain(curve, 0.41) is None
    assert drop_at_gain(curve, -0.1) == 0.0


def test_gain_and_drop_at_each_check() -> None:
    rows = [
        observation(stage, subject, score, update=update)
        for stage, update, scores in [(0, None, (0.2, 0.8)), (1, 5, (0.5, 0.7)), (1, None, (0.6, 0.5))]
        for subject, score in zip(("a", "other"), scores, strict=True)
    ]
    (run,) = measured_runs(ResultTable(observations=tuple(rows), facts=(facts(1, "a"),)))
    curve = tradeoff_curve(run.main)
    assert [tuple(point) for point in curve] == [pytest.approx(pair) for pair in [(0.0, 0.0), (0.3, 0.1), (0.4, 0.3)]]
