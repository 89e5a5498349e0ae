"""A grid's own summary of its comparison at matched gain is read as it writes it, and shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.agent.studies.grid.test_retaining_study import carried_through, grid

from perdure.agent.studies.grid.retaining_summary import retaining_summary
from perdure.agent.studies.report.find_study import load_study
from perdure.agent.studies.report.report_data import report_data
from perdure.agent.studies.report.report_page import report_page
from perdure.agent.studies.report.sections.stated_gain import stated_gain
from perdure.agent.studies.study_file import open_study


def test_the_summary_of_a_grid_is_read(tmp_path: Path) -> None:
    file = grid(tmp_path)
    stated = stated_gain(retaining_summary(file, carried_through(file)), "addition")
    assert stated.gain == pytest.approx(0.3)
    assert stated.reached == {"sft": (3, 3), "grpo": (3, 3), "trace-sft": (3, 3)}
    assert [tuple(point) for point in stated.pilots["sft"]] == [(0.0, 0.0), pytest.approx((0.15, 0.1)), pytest.approx((0.3, 0.2))]
    assert stated.left_out == {}


def test_an_arm_that_is_not_comparable_is_named(tmp_path: Path) -> None:
    file = grid(tmp_path)
    finished = carried_through(file, nothing_learned="pilot: trace-sft")
    with open_study(tmp_path / "study") as kept:
        for result in finished.values():
            kept.keep(result)
    summary = retaining_summary(file, finished)
    (tmp_path / "study" / "study.json").write_text(json.dumps(summary))
    assert stated_gain(summary, "addition").left_out == {"trace-sft": "none of its pilots learned anything"}
    page = report_page(report_data(load_study(tmp_path / "study")), with_plots=False, made_by="abc")
    assert "trace-sft is not comparable: none of its pilots learned anything." in page
    assert "runs that reach 0.30" in page


def test_what_is_missing_or_of_another_form_is_empty() -> None:
    for summary in ({}, {"matched_gain": 0.4, "runs": {"a": 1}, "pilots": [3], "not_comparable": ["sft"]}):
        stated = stated_gain(summary, "addition")
        assert (stated.gain, dict(stated.reached), dict(stated.left_out), dict(stated.pilots)) == (None, {}, {}, {})
