"""Which study a name, a folder or LAST means, and what is read of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.agent.studies.report.made_studies import keep_study, stream_cells

from perdure.agent.studies.report.find_study import find_study, load_study
from perdure.agent.studies.report.report_data import report_data
from perdure.agent.studies.report.report_page import report_page
from perdure.agent.studies.study_file import FILE_NAME, open_study
from perdure.memory.errors import InputError, UnknownError


def test_the_last_is_the_one_with_the_newest_cell(tmp_path: Path) -> None:
    first = keep_study(tmp_path / "first", {"a": []})
    time.sleep(0.01)
    keep_study(tmp_path / "second", {"a": []})
    with open_study(tmp_path / "empty"):
        pass
    assert find_study("LAST", tmp_path) == tmp_path / "second"
    time.sleep(0.01)
    keep_study(first, {"b": []})
    assert find_study("LAST", tmp_path) == first


def test_a_study_is_found_by_name_by_folder_and_by_file(tmp_path: Path) -> None:
    made = keep_study(tmp_path / "keep" / "made", {"a": []})
    elsewhere = keep_study(tmp_path / "elsewhere", {"a": []})
    keep = tmp_path / "keep"
    assert find_study("made", keep) == made
    assert find_study(str(elsewhere), keep) == elsewhere
    assert find_study(str(elsewhere / FILE_NAME), keep) == elsewhere


def test_what_is_not_there_is_named_with_what_is(tmp_path: Path) -> None:
    keep_study(tmp_path / "made", {"a": []})
    with pytest.raises(UnknownError, match=r"no study mode: it is neither a name in .* \(there are made\) nor a folder"):
        find_study("mode", tmp_path)
    with pytest.raises(UnknownError, match="has a finished cell"):
        find_study("LAST", tmp_path / "nowhere")


def test_a_study_without_cells_or_with_a_damaged_summary_is_refused(tmp_path: Path) -> None:
    with open_study(tmp_path / "empty"):
        pass
    with pytest.raises(InputError, match="has no cell yet"):
        load_study(tmp_path / "empty")
    made = keep_study(tmp_path / "made", stream_cells({"naive": 0.1}, seeds=1))
    (made / "made.json").write_text('{"claims": [')
    with pytest.raises(InputError, match=r"made\.json is damaged"):
        load_study(made)


def test_a_summary_from_before_the_newest_cell_is_told(tmp_path: Path) -> None:
    made = keep_study(tmp_path / "made", stream_cells({"naive": 0.1}, seeds=1), {"claims": []})
    page = report_page(report_data(load_study(made)), with_plots=False, made_by="abc")
    assert "older than the newest cell" not in page
    time.sleep(0.02)
    keep_study(made, stream_cells({"naive": 0.1}, seeds=2))
    assert load_study(made).summary_is_old
    page = report_page(report_data(load_study(made)), with_plots=False, made_by="abc")
    assert "older than the newest cell: `perdure study run` writes them again" in page


def test_a_copy_under_another_name_keeps_its_summary(tmp_path: Path) -> None:
    made = keep_study(tmp_path / "made", {"a": []}, {"claims": []})
    made.rename(tmp_path / "kept-aside")
    assert load_study(tmp_path / "kept-aside").summary == {"claims": []}


def test_cells_that_a_study_no_longer_consists_of_are_not_read(tmp_path: Path) -> None:
    made = keep_study(tmp_path / "made", stream_cells({"naive": 0.1}, seeds=2))
    names = list(load_study(made).cells)
    assert len(names) == 2
    with open_study(made) as file:
        file.plan(names[1:])
    assert list(load_study(made).cells) == names[1:]
