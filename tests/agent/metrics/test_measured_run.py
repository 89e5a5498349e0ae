"""Rows become the R matrix, items and curves of a run."""

from __future__ import annotations

import pytest
from tests.agent.metrics.worked_example import R, example_run, example_table, facts, observation

from perdure.agent.metrics.measured_run import Point, measured_runs
from perdure.agent.metrics.observation import ResultTable


def test_the_matrix_of_the_example() -> None:
    matrix = example_run().main.matrix
    assert [tuple(matrix.at(stage, subject) for subject in matrix.subjects()) for stage in range(4)] == list(R)
    assert matrix.learned == matrix.first == {"a": 1, "b": 2, "c": 3}


def test_a_score_is_the_mean_over_items_and_an_item_has_the_mean_of_its_answers() -> None:
    rows = [observation(0, "a", score, item=item) for item, score in [("1", 1.0), ("1", 0.0), ("2", 1.0)]]
    (run,) = measured_runs(ResultTable(observations=tuple(rows), facts=()))
    assert run.main.matrix.at(0, "a") == 0.75
    assert run.main.items[0, "a"] == {"1": 0.5, "2": 1.0}
    assert run.main.answers[0, "a"] == {"1": [1.0, 0.0], "2": [1.0]}


def test_each_subject_has_the_first_main_measure_that_it_has() -> None:
    rows = (
        observation(0, "env", 0.1, measure="greedy"),
        observation(0, "env", 0.2, measure="sampled"),
        observation(0, "skill", 0.3, measure="strict"),
        observation(0, "skill", 0.4, measure="choice"),
        observation(0, "text", 2.5, measure="cross_entropy"),
    )
    (run,) = measured_runs(ResultTable(observations=rows, facts=()))
    assert run.main.matrix.scores == {(0, "env"): 0.2, (0, "skill"): 0.4}
    assert run.books["strict"].matrix.scores == {(0, "skill"): 0.3}
    (greedy,) = measured_runs(ResultTable(observations=rows, facts=()), ("greedy",))
    assert greedy.main.matrix.scores == {(0, "env"): 0.1}


def test_a_curve_begins_with_the_stage_before_and_ends_with_its_own_end() -> None:
    assert example_run().main.curves[2, "a"] == [Point(0, 0.9), Point(5, 0.5), Point(10, 0.95)]


def test_the_base_of_a_seed_serves_all_arms() -> None:
    rows = (
        observation(0, "a", 0.25, arm="base", seed=7),
        observation(0, "a", 0.5, arm="base", seed=8),
        observation(1, "a", 0.75, arm="x", seed=7),
        observation(0, "a", 0.0, arm="y", seed=7),
    )
    runs = measured_runs(ResultTable(observations=rows, facts=(facts(1, "a", seed=7),)))
    assert [(run.name.arm, run.main.matrix.at(0, "a")) for run in runs] == [("x", 0.25), ("y", 0.0)]


def test_a_subject_that_is_learned_twice_has_both_stages() -> None:
    table = example_table()
    (run,) = measured_runs(ResultTable(observations=table.observations, facts=(*table.facts[:2], facts(3, "c", "a"))))
    assert (run.main.matrix.first["a"], run.main.matrix.learned["a"]) == (1, 3)


@pytest.mark.parametrize("stages", [(1, 2, 3), (3, 1, 2)])
def test_the_order_of_rows_does_not_matter(stages: tuple[int, ...]) -> None:
    table = example_table()
    shuffled = ResultTable(observations=table.observations[::-1], facts=tuple(table.facts[stage - 1] for stage in stages))
    (run,) = measured_runs(shuffled)
    assert run.main.curves == example_run().main.curves
    assert run.main.matrix.first == {"a": 1, "b": 2, "c": 3}
