"""A life study as rows of the table of observations."""

from __future__ import annotations

from tests.agent.studies.test_life_study import NAMES, results

from perdure.agent.metrics.measured_run import measured_runs
from perdure.agent.studies.life.life_rows import life_rows
from perdure.agent.studies.life.life_study import LifeSize


def test_a_stage_is_a_verdict_and_its_scores_are_of_what_serves_then() -> None:
    """The life promotes v1, refuses v2, promotes v3; the naive life lets each serve."""
    runs = {run.name.arm: run for run in measured_runs(life_rows(results()))}
    assert list(runs) == ["life", "naive", "joint"]
    scores = {arm: [run.main.matrix.at(stage, NAMES[0]) for stage in range(run.main.matrix.stages + 1)] for arm, run in runs.items()}
    assert scores["life"] == [0.3, 0.5, 0.5, 0.9]
    assert scores["naive"] == [0.3, 0.7, 0.5, 0.3]
    assert scores["joint"] == [0.3, 0.6]
    assert [(fact.targets, fact.verdict) for fact in runs["life"].facts] == [
        ((NAMES[1],), "promote"),
        ((NAMES[0],), "reject"),
        ((NAMES[1],), "promote"),
    ]
    assert [fact.verdict for fact in runs["naive"].facts] == [None, None, None]
    assert (runs["joint"].facts[0].targets, runs["joint"].facts[0].updates) == (tuple(NAMES), 36)
    assert sum(fact.seconds for fact in runs["life"].facts) == 165.0


def test_what_is_not_finished_is_left_out() -> None:
    finished = {name: result for name, result in results().items() if ": joint" not in name and "naive" not in name}
    assert {run.name.arm for run in measured_runs(life_rows(finished))} == {"life"}
    assert life_rows({}).observations == ()


def test_lives_of_several_lengths_are_orders() -> None:
    both = {**results(), **results(LifeSize(hours=1.0, seeds=1, tasks=40))}
    assert {row.order for row in life_rows(both).observations} == {"0.5 h", "1 h"}
    assert {row.order for row in life_rows(results()).observations} == {""}
