"""`perdure study report` and `perdure study compare`, as they are called."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tests.agent.conftest import Call
from tests.agent.studies.report.made_studies import keep_study, stream_cells

pytestmark = pytest.mark.processes  # `made_by` asks git

ARMS = {"naive": 0.5, "replay": 0.1}


def test_a_report_is_a_page_and_its_rows(perdure: Call, tmp_path: Path) -> None:
    keep_study(tmp_path / "studies" / "made", stream_cells(ARMS), failed="no memory")
    done = perdure("study", "report", "LAST", "--json")
    found = json.loads(done.out)
    assert done.code == 0
    assert (found["study"], found["arms"], found["runs"]) == ("made", ["naive", "replay"], 6)
    assert found["cells"] == {"done": 6, "failed": {"cell that failed": "no memory"}}
    folder = tmp_path / "studies" / "made" / "report"
    assert [Path(path) for path in (found["page"], *found["files"])] == [
        folder / name for name in ("made.html", "observations.csv", "observations.parquet", "stages.csv")
    ]
    assert (folder / "made.html").read_text().startswith("<!doctype html>")
    assert len((folder / "observations.csv").read_text().splitlines()) == found["observations"] + 1
    again = perdure("study", "report", "made", "--out", "elsewhere", "--against", "replay", "--measure", "strict", "--json")
    assert json.loads(again.out)["page"] == str(tmp_path / "elsewhere" / "made.html")
    assert "Each arm minus replay" in (tmp_path / "elsewhere" / "made.html").read_text()


def test_a_report_without_a_place_or_an_arm_is_refused(perdure: Call, tmp_path: Path) -> None:
    keep_study(tmp_path / "studies" / "made", stream_cells(ARMS, seeds=1))
    (tmp_path / "file").write_text("")
    assert perdure("study", "report", "other").code == 2
    refused = perdure("study", "report", "made", "--against", "sft")
    assert (refused.code, refused.err.strip()) == (2, "perdure: no arm sft: the study made has naive, replay")
    unwritten = perdure("study", "report", "made", "--out", "file/below")
    assert unwritten.code == 3
    assert "name another folder with --out" in unwritten.err
    assert not (tmp_path / "studies" / "made" / "report").exists()


def test_two_studies_and_two_arms_are_compared(perdure: Call, tmp_path: Path) -> None:
    keep_study(tmp_path / "studies" / "old", stream_cells(ARMS))
    keep_study(tmp_path / "studies" / "new", stream_cells({"naive": 0.3, "replay": 0.1}))
    found = json.loads(perdure("study", "compare", "old", "new", "--json").out)
    assert (found["a"]["study"], found["b"]["study"], found["runs"]) == ("old", "new", 6)
    drops = {row["arm"]: row["difference"]["value"] for row in found["metrics"] if row["metric"] == "drop"}
    assert drops["naive"] < -0.1
    assert drops["replay"] == 0
    arms = json.loads(perdure("study", "compare", "LAST", "LAST", "--arms", "naive", "replay", "--json").out)
    assert arms["arms"] == [["naive", "replay"]]
    shown = perdure("study", "compare", "old", "new").out
    assert "6 runs and" in shown
    assert "average accuracy (ACC)" in shown
    assert "stability gap" not in shown
    assert "stability gap" in perdure("study", "compare", "old", "new", "--all").out


def test_a_study_without_observations_cannot_be_compared(perdure: Call, tmp_path: Path) -> None:
    keep_study(tmp_path / "studies" / "lives", {"good, life 0": [{"row": "good"}]})
    refused = perdure("study", "compare", "lives", "lives")
    assert refused.code == 2
    assert "has no observations to compare" in refused.err


@pytest.mark.long
def test_a_report_of_a_hundred_thousand_observations_takes_seconds(perdure: Call, tmp_path: Path) -> None:
    """Seconds of the processor, so that other work on the machine does not count. Plots need the extra `study`."""
    arms = {f"arm {n}": n / 20 for n in range(8)}
    keep_study(tmp_path / "studies" / "large", stream_cells(arms, items=75, orders=("s/order 1", "s/order 2")))
    started_s = time.process_time()
    found = json.loads(perdure("study", "report", "large", "--json").out)
    assert found["observations"] > 100_000
    assert time.process_time() - started_s < 20
