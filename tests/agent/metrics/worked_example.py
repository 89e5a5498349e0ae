"""A run whose metrics are worked out by hand: three stages that learn a, b and c, and one subject that is never a target.

    R      a    b    c    other
    base  .20  .30  .40  .80
    1     .90  .35  .40  .70
    2     .95  .80  .50  .75
    3     .60  .60  .90  .60

Within stage 2, a falls to .50 after 5 of its 10 updates.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.agent.metrics.measured_run import MeasuredRun, ScoreMatrix, measured_runs
from perdure.agent.metrics.observation import Observation, ResultTable, StageFacts

SUBJECTS = ("a", "b", "c", "other")
R = ((0.2, 0.3, 0.4, 0.8), (0.9, 0.35, 0.4, 0.7), (0.95, 0.8, 0.5, 0.75), (0.6, 0.6, 0.9, 0.6))
UPDATES = 10


def observation(
    stage: int,
    subject: str,
    score: float,
    *,
    item: str = "1",
    measure: str = "sampled",
    arm: str = "x",
    seed: int = 0,
    update: int | None = None,
) -> Observation:
    return Observation(arm=arm, seed=seed, stage=stage, update=update, subject=subject, item=item, measure=measure, score=score)


def facts(stage: int, *targets: str, arm: str = "x", seed: int = 0) -> StageFacts:
    return StageFacts(arm=arm, seed=seed, stage=stage, targets=targets, updates=UPDATES, tokens=100 * stage, seconds=0.5)


def example_rows(arm: str = "x", seed: int = 0) -> list[Observation]:
    ends = [
        observation(stage, subject, score, arm=arm, seed=seed)
        for stage, row in enumerate(R)
        for subject, score in zip(SUBJECTS, row, strict=True)
    ]
    return [*ends, observation(2, "a", 0.5, arm=arm, seed=seed, update=5)]


def example_table(arm: str = "x", seed: int = 0) -> ResultTable:
    targets = [facts(stage, subject, arm=arm, seed=seed) for stage, subject in enumerate("abc", start=1)]
    return ResultTable(observations=tuple(example_rows(arm, seed)), facts=tuple(targets))


def example_run() -> MeasuredRun:
    (run,) = measured_runs(example_table())
    return run


def matrix_of(rows: Sequence[Sequence[float]]) -> ScoreMatrix:
    """R of tasks 1, 2, ... that are learned in this order, the base first."""
    names = [str(task) for task in range(1, len(rows[0]) + 1)]
    learned = {name: stage for stage, name in enumerate(names, start=1) if stage < len(rows)}
    scores = {(stage, name): score for stage, row in enumerate(rows) for name, score in zip(names, row, strict=True)}
    return ScoreMatrix(stages=len(rows) - 1, scores=scores, learned=learned, first=learned)
