"""KL against forgetting, from rows as the cells of a study write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.agent.studies.report.made_studies import FIRST, OTHER, SECOND, keep_study

from perdure.agent.metrics.measured_run import MAIN, MeasuredRun, measured_runs
from perdure.agent.metrics.observation import Observation, StageFacts, read_table, to_document
from perdure.agent.studies.grid.table_rows import SAMPLED, SAMPLED_DEV, RowPlace, TaskScores, task_rows
from perdure.agent.studies.report.find_study import load_study
from perdure.agent.studies.report.report_data import report_data
from perdure.agent.studies.report.report_page import report_page
from perdure.agent.studies.report.sections.divergence_section import points_of
from perdure.memory.json_value import Document

UPDATES = 12
LOST = {1: 0.1, 2: 0.4}
"""By stage: what `OTHER` has lost since the base."""


def scores(mean: float) -> TaskScores:
    return {task: float(task < round(10 * mean)) for task in range(10)}


def stream_rows(verdicts: Sequence[str | None] = (None, None)) -> list[Document]:
    """As a stream's cell writes them: within a stage KL at every kept update, the last one too, and the target's scores at the others; at
    its end the scores of all environments, and no KL."""
    rows = list(task_rows(RowPlace(arm="base", order="", seed=0, stage=0), SAMPLED, {name: scores(0.8) for name in (FIRST, SECOND, OTHER)}))
    for stage, (target, verdict) in enumerate(zip((FIRST, SECOND), verdicts, strict=True), start=1):
        for update in (4, 8, UPDATES):
            place = RowPlace(arm="naive", order="", seed=0, stage=stage, update=update)
            kl = Observation(
                arm=place.arm, seed=0, stage=stage, update=update, subject=target, item="kl", measure="kl_new", score=stage * update / 100
            )
            rows.append(to_document(kl))
            if update < UPDATES:
                rows += task_rows(place, SAMPLED, {target: scores(0.8)})
        end = RowPlace(arm="naive", order="", seed=0, stage=stage)
        rows += task_rows(end, SAMPLED, {FIRST: scores(0.9), SECOND: scores(0.8), OTHER: scores(0.8 - LOST[stage])})
        rows.append(to_document(StageFacts(arm="naive", seed=0, stage=stage, targets=(target,), updates=UPDATES, verdict=verdict)))
    return rows


def run_of(rows: Sequence[Document]) -> MeasuredRun:
    (run,) = measured_runs(read_table(rows))
    return run


def test_the_check_of_the_last_update_is_the_end_of_its_stage() -> None:
    points = points_of(run_of(stream_rows()), "kl_new", MAIN)
    assert points == [pytest.approx((0.12, 0.1)), pytest.approx((0.24, 0.4))]


def test_a_stream_has_the_section(tmp_path: Path) -> None:
    page = report_page(report_data(load_study(keep_study(tmp_path / "made", {"run": stream_rows()}))), with_plots=False, made_by="abc")
    assert '<section id="divergence">' in page
    assert "2 checks of 1 runs" in page


def test_a_candidate_that_was_refused_is_no_point() -> None:
    """Its KL is of weights that never served, and the scores are of those that serve on."""
    assert points_of(run_of(stream_rows(("promote", "reject"))), "kl_new", MAIN) == [pytest.approx((0.12, 0.1))]


def early_rows() -> list[Document]:
    """Update 4 of 12 was delivered, with a drop of .1; after 12 it was .5. Dev tasks are of the target alone."""
    rows = list(task_rows(RowPlace(arm="base", order="", seed=0, stage=0), SAMPLED, {OTHER: scores(0.8)}))
    rows += task_rows(RowPlace(arm="base", order="", seed=0, stage=0), SAMPLED_DEV, {FIRST: scores(0.2)})
    for update, kl in ((4, 0.05), (8, 0.1), (UPDATES, 0.3)):
        place = RowPlace(arm="sft", order="", seed=0, stage=1, update=update)
        drift = Observation(arm="sft", seed=0, stage=1, update=update, subject=FIRST, item="kl", measure="kl_new", score=kl)
        rows += [to_document(drift), *task_rows(place, SAMPLED_DEV, {FIRST: scores(0.6)})]
    rows += task_rows(RowPlace(arm="sft", order="", seed=0, stage=1), SAMPLED, {OTHER: scores(0.7)})
    rows += task_rows(RowPlace(arm="sft", order="", seed=0, stage=1, update=UPDATES), SAMPLED, {OTHER: scores(0.3)})
    return [*rows, to_document(StageFacts(arm="sft", seed=0, stage=1, targets=(FIRST,), updates=4))]


def test_a_run_that_delivers_early_has_a_point_there_and_one_at_its_last_update(tmp_path: Path) -> None:
    assert sorted(points_of(run_of(early_rows()), "kl_new", MAIN)) == [pytest.approx((0.05, 0.1)), pytest.approx((0.3, 0.5))]
    page = report_page(report_data(load_study(keep_study(tmp_path / "made", {"run": early_rows()}))), with_plots=False, made_by="abc")
    assert "2 checks of 1 runs" in page
