"""Studies of a TOML file on a cluster: cells that learn, and that follow from each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.agent.studies.elsewhere.placements import InThisProcess, run
from tests.agent.studies.grid.small_grids import retaining_coins, write
from tests.agent.studies.study_cells import run_here

from perdure.agent.studies.catalogue import StudySettings, prepare_study
from perdure.agent.studies.study_file import open_study

pytestmark = pytest.mark.processes  # `made_by` asks git


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the node's cells."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_a_cell_that_fails_leaves_its_traceback_on_the_head(tmp_path: Path) -> None:
    file = write(tmp_path, retaining_coins(tmp_path).replace("model =", 'model = "/no/such/model"\n# '))
    results = run(prepare_study(str(file), StudySettings()).study, tmp_path / "study", InThisProcess(), name=str(file))
    assert all("/no/such/model" in str(result.error) for result in results.values())
    assert "Traceback" in (tmp_path / "study" / "errors.log").read_text()


@pytest.mark.learning
def test_a_study_whose_cells_follow_from_each_other_brings_their_folders_along(tmp_path: Path) -> None:
    """Runs begin from a copy of the home of another cell, and their tests open that of the run: the node has none of these."""
    file = write(tmp_path, retaining_coins(tmp_path))
    study = prepare_study(str(file), StudySettings()).study
    results = run(study, tmp_path / "study", InThisProcess(), name=str(file))
    assert {name: result.error for name, result in results.items() if result.error} == {}
    assert [name for name in results if name.startswith("test of run")]
    assert not any((tmp_path / "study").glob("*.arriving"))
    with open_study(tmp_path / "here") as kept:
        here = run_here(study, kept, print, 1)
    assert list(here) == list(results)
    scores = [[row for row in result[name].rows if row.get("measure") == "sampled"] for result in (here, results) for name in here]
    assert scores[: len(here)] == scores[len(here) :]
    assert not list(tmp_path.glob("perdure-cells-*/*"))
