"""`perdure study run` of a file: what is wrong with it is one line and exit code 2, and what it made is listed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.agent.conftest import Call
from tests.agent.studies.grid.small_grids import PLANNED, retaining_coins, write


def test_a_wrong_file_is_refused_in_one_line(perdure: Call, tmp_path: Path) -> None:
    write(tmp_path, PLANNED.replace("checkpoints", "checkpoint"))
    result = perdure("study", "run", "grid.toml")
    assert (result.code, result.out) == (2, "")
    assert result.err.strip().endswith("no key is named 'measure.checkpoint'; did you mean checkpoints?")
    assert not (tmp_path / "studies").exists()


def test_an_unknown_name_is_refused(perdure: Call) -> None:
    result = perdure("study", "run", "long-streem", "--small")
    assert result.code == 2
    assert "did you mean long-stream?" in result.err


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.learning
def test_a_learner_that_fails_is_marked_and_the_rest_goes_on(perdure: Call, tmp_path: Path) -> None:
    """sft has no demonstrations of a coin."""
    text = retaining_coins(tmp_path).replace('learners = ["grpo", "trace-sft"]', 'learners = ["sft", "grpo"]')
    write(tmp_path, text)
    result = perdure("study", "run", "grid.toml", "--json")
    assert result.code == 3
    document = json.loads(result.out)
    (failed,) = document["cells"]["failed"].items()
    assert failed[0] == "pilot: sft on heads at 0.001, seed 100"
    assert "has no oracle()" in failed[1]
    assert {run["arm"] for run in document["runs"]} == {"grpo"}
    (why,) = [one["why"] for one in document["not_comparable"] if one["arm"] == "sft"]
    assert why == f"its pilots failed: {failed[0]}: {failed[1]}"
    assert document["failures"] == [{"cell": failed[0], "error": failed[1]}]
    listed = {one["name"]: one for one in json.loads(perdure("study", "list", "--json").out)}
    assert listed["coins"]["failed"] == 1
    assert listed["coins"]["done"] == document["cells"]["done"]
