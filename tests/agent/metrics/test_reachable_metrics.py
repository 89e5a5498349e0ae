"""Which metrics a study comes to, from rows as its cells write them; docs/metrics.md says what the others need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from perdure.agent.metrics.arm_summary import metrics_by_arm
from perdure.agent.metrics.measured_run import measured_runs
from perdure.agent.metrics.metric_table import METRICS
from perdure.agent.metrics.observation import StageFacts, read_table, to_document
from perdure.agent.studies.grid.table_rows import SAMPLED, PanelRow, RowPlace, drift_rows, panel_rows, task_rows
from perdure.memory.contracts.results import Drift, Update
from perdure.memory.json_value import Document

OTHER_ROWS = {"savings", "coverage"}
"""A target that is learned twice, several answers to a task."""
STAGES, TASKS, UPDATES = ("a", "b", "c"), 8, 12


def scores(rng: Random, mean: float) -> dict[int, float]:
    return {task: float(rng.random() < mean) for task in range(TASKS)}


def panel(place: RowPlace, rng: Random) -> Iterator[Document]:
    return panel_rows(
        place,
        [
            PanelRow(skill, str(item), measure, rng.random())
            for skill, measures in (("grammar", ("choice", "confidence", "strict", "lenient", "cued")), ("text", ("cross_entropy",)))
            for measure in measures
            for item in range(6)
        ],
    )


def base_rows(seed: int) -> Iterator[Document]:
    rng, place = Random(f"base {seed}"), RowPlace(arm="base", order="", seed=seed, stage=0)
    yield from task_rows(place, SAMPLED, {name: scores(rng, 0.6) for name in (*STAGES, "other")})
    yield from panel(place, rng)


def run_rows(arm: str, seed: int, stages: Sequence[Sequence[str]]) -> Iterator[Document]:
    """Within a stage KL at each kept update, and the targets' scores at all but the last; then all environments, and at last the panel."""
    rng = Random(f"{arm} {seed}")
    for stage, targets in enumerate(stages, start=1):
        for update in (4, 8, UPDATES):
            place = RowPlace(arm=arm, order="", seed=seed, stage=stage, update=update)
            yield from drift_rows(
                place, Update(update=update, drift=Drift(kl_base_new=0.1 * update, kl_base_old=0.05 * update)), targets[0]
            )
            if update < UPDATES:
                yield from task_rows(place, SAMPLED, {name: scores(rng, 0.7) for name in targets})
        end = RowPlace(arm=arm, order="", seed=seed, stage=stage)
        yield from task_rows(end, SAMPLED, {name: scores(rng, 0.8) for name in (*STAGES, "other")})
        if stage == len(stages):
            yield from panel(end, rng)
        facts = StageFacts(arm=arm, seed=seed, stage=stage, targets=tuple(targets), updates=UPDATES, tokens=100, seconds=2.0)
        yield to_document(facts)


def test_a_study_of_several_stages_reaches_all_metrics_but_those_that_need_other_rows() -> None:
    rows = [row for seed in range(2) for row in base_rows(seed)]
    for seed in range(2):
        for arm in ("naive", "single"):
            rows += run_rows(arm, seed, [[name] for name in STAGES])
        rows += run_rows("joint", seed, [STAGES])
    found = metrics_by_arm(measured_runs(read_table(rows)))["naive"]
    assert {metric.key for metric in METRICS} - found.keys() == OTHER_ROWS
