"""Arms over seeds: what is averaged, what is paired, and that every metric can be reached."""

from __future__ import annotations

from random import Random
from time import process_time

import pytest
from tests.agent.metrics.worked_example import example_table, facts, observation

from perdure.agent.metrics.arm_summary import compare_arms, metrics_by_arm
from perdure.agent.metrics.measured_run import measured_runs
from perdure.agent.metrics.metric_table import METRIC, METRICS
from perdure.agent.metrics.observation import Observation, ResultTable, StageFacts

QUICK_S = 10.0


def gains(arm: str, by_run: dict[tuple[str, int], float]) -> ResultTable:
    """Runs with one target whose score rises from 0, by order and seed."""
    observations = [
        Observation(arm=arm, order=order, seed=seed, stage=stage, subject="a", item="1", measure="sampled", score=score)
        for (order, seed), gain in by_run.items()
        for stage, score in [(0, 0.0), (1, gain)]
    ]
    targets = [StageFacts(arm=arm, order=order, seed=seed, stage=1, targets=("a",)) for order, seed in by_run]
    return ResultTable(observations=tuple(observations), facts=tuple(targets))


def joined(*tables: ResultTable) -> ResultTable:
    return ResultTable(
        observations=tuple(row for table in tables for row in table.observations),
        facts=tuple(row for table in tables for row in table.facts),
    )


def test_orders_are_averaged_so_that_n_counts_seeds() -> None:
    table = gains("x", {("ab", 0): 0.2, ("ba", 0): 0.4, ("ab", 1): 0.5, ("ba", 1): 0.7})
    found = metrics_by_arm(measured_runs(table))["x"]["gain"]
    assert found.by_seed == pytest.approx({0: 0.3, 1: 0.6})
    assert found.estimate.n == 2
    assert found.estimate.value == pytest.approx(0.45)


def test_the_bound_is_on_the_bad_side() -> None:
    table = joined(*(example_table(seed=seed) for seed in range(3)), gains("x", {("", 7): 0.5}))
    found = metrics_by_arm(measured_runs(table))["x"]
    gain, seconds, chance = found["gain"], found["seconds"], found["forgetting_chance"]
    assert gain.bound is not None
    assert gain.bound < gain.estimate.value
    assert seconds.bound is not None
    assert seconds.bound > seconds.estimate.value
    assert chance.bound is None


def test_two_arms_are_compared_over_the_seeds_of_both() -> None:
    table = joined(gains("x", {("", 0): 0.9, ("", 1): 0.5, ("", 2): 0.3}), gains("y", {("", 0): 0.8, ("", 1): 0.3, ("", 5): 0.0}))
    found = metrics_by_arm(measured_runs(table))
    difference = compare_arms(found["x"]["gain"], found["y"]["gain"])
    assert difference is not None
    assert difference.estimate.value == pytest.approx(0.15)
    assert difference.estimate.n == 2
    assert difference.p is not None
    assert 0.05 < difference.p < 0.2  # t = 3 with one degree of freedom: .102
    assert compare_arms(found["x"]["gain"], metrics_by_arm(measured_runs(gains("z", {("", 9): 0.1})))["z"]["gain"]) is None


def test_a_run_that_failed_is_left_out_of_the_other_arm_too() -> None:
    """Order `ba` is .5 easier, and y is .1 worse in each run. Without y's run on `ba` with seed 1, its mean there is lower by .25."""
    x = {("ab", 0): 0.2, ("ba", 0): 0.7, ("ab", 1): 0.3, ("ba", 1): 0.8}
    y = {run: gain - 0.1 for run, gain in x.items() if run != ("ba", 1)}
    found = metrics_by_arm(measured_runs(joined(gains("x", x), gains("y", y))))
    difference = compare_arms(found["x"]["gain"], found["y"]["gain"])
    assert difference is not None
    assert difference.estimate.value == pytest.approx(0.1)
    assert (difference.estimate.n, difference.runs) == (2, 3)
    assert found["y"]["gain"].by_seed == pytest.approx({0: 0.35, 1: 0.2})


def test_references_are_the_arms_of_these_names() -> None:
    """R[j][j] of the example is .9, .8, .9; the joint run of the same seed reached .5 of a."""
    joint = ResultTable(
        observations=(observation(0, "a", 0.2, arm="joint"), observation(1, "a", 0.5, arm="joint")), facts=(facts(1, "a", arm="joint"),)
    )
    other_seed = ResultTable(observations=(observation(1, "a", 1.0, arm="joint", seed=1),), facts=(facts(1, "a", arm="joint", seed=1),))
    found = metrics_by_arm(measured_runs(joined(example_table(), joint, other_seed)))
    assert found["x"]["intransigence_joint"].estimate.value == pytest.approx(-0.4)
    assert "intransigence_joint" not in found["joint"]


def test_runs_beside_are_only_measured_against() -> None:
    joint = measured_runs(ResultTable(observations=(observation(1, "a", 0.5, arm="joint"),), facts=(facts(1, "a", arm="joint"),)))
    found = metrics_by_arm(measured_runs(example_table()), beside=joint)
    assert list(found) == ["x"]
    assert found["x"]["intransigence_joint"].estimate.value == pytest.approx(-0.4)


def everything(seed: int) -> ResultTable:
    """A run that has all that any metric needs, and its references."""
    rng = Random(seed)
    main = example_table(seed=seed)
    more = [
        observation(stage, "a", rng.random(), item=str(item), seed=seed, update=update)
        for stage in range(5)
        for update in ((None, 0, 10) if stage in (1, 4) else (None,))
        for item in range(8)
        for _ in range(4)
    ]
    measures = ("strict", "cued", "confidence", "kl_new", "kl_old", "cross_entropy")
    ends = [
        observation(stage, "b", float(rng.random() < 0.7), item=str(item), measure=measure, seed=seed)
        for measure in measures
        for stage in (0, 2, 4)
        for item in range(8)
    ]
    ends += [
        observation(stage, "grammar", 0.9 - stage / 20, measure=one, seed=seed) for stage in (0, 4) for one in ("choice", "confidence")
    ]
    learns = [observation(4, "b", float(rng.random() < 0.7), item=str(item), seed=seed) for item in range(8)]
    learns += [observation(4, "c", 0.5, seed=seed), observation(4, "other", 0.5, seed=seed)]
    for arm in ("joint", "single"):
        learns += [observation(0, "a", 0.1, arm=arm, seed=seed), observation(1, "a", 0.6, arm=arm, seed=seed)]
        learns += [observation(1, "a", 0.4, arm=arm, seed=seed, update=5)]
    targets = (facts(1, "a", arm="joint", seed=seed), facts(1, "a", arm="single", seed=seed), facts(4, "a", seed=seed))
    return joined(main, ResultTable(observations=(*more, *ends, *learns), facts=targets))


def test_every_metric_can_be_reached() -> None:
    found = metrics_by_arm(measured_runs(joined(*map(everything, range(2)))))["x"]
    assert [metric.key for metric in METRICS if metric.key not in found and metric.key != "savings"] == []


def test_keys_and_names_are_unique() -> None:
    assert len(METRIC) == len({metric.name for metric in METRICS}) == len(METRICS)


def test_a_hundred_thousand_rows_are_quick() -> None:
    """2 arms, 5 seeds, 9 stages, 11 subjects, 100 items: 99,000 rows. Half of the time that a report may take."""
    rng = Random(0)
    observations = tuple(
        Observation(
            arm=arm, seed=seed, stage=stage, subject=f"s{subject}", item=str(item), measure="sampled", score=float(rng.random() < 0.5)
        )
        for arm in "xy"
        for seed in range(5)
        for stage in range(9)
        for subject in range(11)
        for item in range(100)
    )
    targets = tuple(
        StageFacts(arm=arm, seed=seed, stage=stage, targets=(f"s{stage}",)) for arm in "xy" for seed in range(5) for stage in range(1, 9)
    )
    started = process_time()
    found = metrics_by_arm(measured_runs(ResultTable(observations=observations, facts=targets)))
    assert process_time() - started < QUICK_S
    assert found["x"]["acc"].estimate.n == 5
