"""Studies of real learners on a tiny model, from a file to their summary, also if they are killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.agent.studies.grid.small_grids import COIN, TAIL, kept_coins, retaining_coins, stream_coins, write
from tests.agent.studies.study_cells import run_here
from tests.tiny_models import tiny_qwen

from perdure.agent.metrics.observation import read_table, runs
from perdure.agent.studies.catalogue import StudySettings, prepare_study
from perdure.agent.studies.cells import CellResult
from perdure.agent.studies.study_file import FILE_NAME, open_study, read_study
from perdure.memory.errors import PerdureError
from perdure.memory.store import open_store

ROOT = Path(__file__).resolve().parents[4]
TRACES = "run: trace-sft on heads at 0.001 from traces at 0.001, seed 0"
pytestmark = [pytest.mark.processes, pytest.mark.learning]


def run(file: Path, folder: Path, at_once: int = 1) -> dict[str, CellResult]:
    prepared = prepare_study(str(file), StudySettings())
    with open_study(folder) as kept:
        return run_here(prepared.study, kept, print, at_once)


def test_retaining_by_doing_from_its_file_to_its_summary(tmp_path: Path) -> None:
    file = write(tmp_path, retaining_coins(tmp_path))
    results = run(file, tmp_path / "study")
    assert {name: result.error for name, result in results.items() if result.error} == {}
    assert [name.split(",")[0] for name in results if name.startswith(("pilot", "run"))] == [
        "pilot: grpo on heads at 0.001",
        "pilot: trace-sft on heads at 0.001 from traces at 0.001",
        "run: grpo on heads at 0.001",
        "run: trace-sft on heads at 0.001 from traces at 0.001",
    ]
    table = read_table(row for result in results.values() for row in result.rows)
    assert {(name.arm, name.order, name.seed) for name in runs(table)} == {
        ("base", "", 100),
        ("base", "", 0),
        ("grpo", "heads", 0),
        ("trace-sft", "heads", 0),
    }
    ends = [row for row in table.observations if row.arm == "grpo" and row.stage == 1 and row.update is None and row.measure == "sampled"]
    assert {row.subject for row in ends} == {COIN, TAIL}
    base = {(row.subject, row.item) for row in table.observations if row.arm == "base" and row.seed == 0 and row.measure == "sampled"}
    assert {(row.subject, row.item) for row in ends} == base
    assert {row.measure for row in table.observations if row.arm == "grpo"} >= {"sampled", "sampled_dev", "kl_new", "kl_old"}
    facts = {fact.arm: fact for fact in table.facts}
    assert facts["grpo"].targets == (COIN,)
    assert facts["grpo"].updates in (2, 4)
    assert facts["grpo"].tokens > 0
    document = prepare_study(str(file), StudySettings()).summarise(results)
    assert {one["arm"] for one in document["runs"] if one["gain"] is not None} == {"grpo", "trace-sft"}
    with open_store(tmp_path / "study" / results[TRACES].parameters["folder"] / "home") as store:
        assert [row["learner"] for row in store.rows("SELECT learner FROM job ORDER BY id")] == ["grpo", "trace-sft"]
    assert run(file, tmp_path / "study") == results


@pytest.mark.long
def test_two_cells_at_once_never_work_in_one_home(tmp_path: Path) -> None:
    """Runs have tests of two versions, and one run is copied by that which learns from its traces. In the end no home of a run is left."""
    text = retaining_coins(tmp_path).replace("keep_weights = true", "")
    results = run(write(tmp_path, text), tmp_path / "study", at_once=2)
    assert {name: result.error for name, result in results.items() if result.error} == {}
    tests = [result for name, result in results.items() if name.startswith("test of run")]
    assert len(tests) == 2
    assert max(len(result.parameters["versions"]) for result in tests) == 2
    assert not list((tmp_path / "study").glob("run-*"))
    assert not list((tmp_path / "study").glob("pilot-*"))
    assert list((tmp_path / "study").glob("base-*/home"))


def test_a_model_of_another_family_goes_through_the_same_grid(tmp_path: Path) -> None:
    text = retaining_coins(tmp_path).replace('learners = ["grpo", "trace-sft"]', 'learners = ["iterative-sft"]')
    text = text.replace(str(tmp_path / "model"), str(tiny_qwen(tmp_path / "qwen")))
    results = run(write(tmp_path, text), tmp_path / "study")
    assert {name: result.error for name, result in results.items() if result.error} == {}
    table = read_table(row for result in results.values() for row in result.rows)
    assert [fact.arm for fact in table.facts] == ["iterative-sft"]


@pytest.mark.long
def test_a_stream_goes_through_its_stages(tmp_path: Path) -> None:
    file = write(tmp_path, stream_coins(tmp_path))
    results = run(file, tmp_path / "study", at_once=2)
    assert {name: result.error for name, result in results.items() if result.error} == {}
    table = read_table(row for result in results.values() for row in result.rows)
    facts = {(fact.arm, fact.stage): fact for fact in table.facts}
    assert {(arm, stage): facts[arm, stage].targets for arm, stage in facts} == {
        ("naive", 1): (COIN,),
        ("naive", 2): (TAIL,),
        ("gated", 1): (COIN,),
        ("gated", 2): (TAIL,),
        ("single", 1): (COIN,),
        ("single", 2): (TAIL,),
        ("joint", 1): (COIN, TAIL),
    }
    assert facts["joint", 1].updates == 8
    assert facts["gated", 1].verdict in ("promote", "reject", "inconclusive")
    assert facts["naive", 1].verdict is None
    within = [row for row in table.observations if row.arm == "naive" and row.update == 2 and row.measure == "sampled"]
    assert {(row.stage, row.subject) for row in within} == {(1, COIN), (2, TAIL)}
    ends = [row for row in table.observations if row.arm == "naive" and row.update is None]
    assert {(row.stage, row.subject) for row in ends} == {(stage, name) for stage in (1, 2) for name in (COIN, TAIL)}
    document = prepare_study(str(file), StudySettings()).summarise(results)
    assert set(document["arms"]) == {"naive", "gated", "joint"}
    assert not (tmp_path / "study" / "run-naive-on-two-0-seed-0" / "home").exists()
    assert facts["gated", 1].tokens > facts["naive", 1].tokens  # the gate's episodes
    assert document["updates"]["naive"]["mean"] == 8


@pytest.mark.long
def test_every_way_to_keep_old_skills_goes_through_all_stages(tmp_path: Path) -> None:
    """Also the first, which has no old environments; live play alone makes as many updates as the others."""
    file = write(tmp_path, kept_coins(tmp_path))
    results = run(file, tmp_path / "study")
    assert {name: result.error for name, result in results.items() if result.error} == {}
    facts = read_table(row for result in results.values() for row in result.rows).facts
    assert {(fact.arm, fact.stage): (fact.updates, fact.note) for fact in facts} == {
        (arm, stage): (2, None) for arm in ("ewc", "gem", "a-gem", "lwf", "o-lora", "stored", "live") for stage in (1, 2)
    }


@pytest.mark.long
def test_a_killed_study_continues_and_no_finished_cell_is_repeated(tmp_path: Path) -> None:
    """It is killed in the middle of a run, after an update; that run then resumes."""
    file = write(tmp_path, stream_coins(tmp_path).replace("updates = 4", "updates = 40"))
    words = [sys.executable, "-m", "perdure", "study", "run", str(file), "--keep", str(tmp_path / "kept"), "--json"]
    folder = tmp_path / "kept" / "coin-stream"
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        words, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as first:
        try:
            home = folder / "run-naive-on-two-0-seed-0" / "home"
            deadline = time.monotonic() + 150
            while _updates(home) < 3:
                assert time.monotonic() < deadline
                assert first.poll() is None
                time.sleep(0.05)
        finally:
            os.killpg(first.pid, signal.SIGKILL)
    finished = read_study(folder) if (folder / FILE_NAME).exists() else {}
    assert "base, seed 0" in finished
    again = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=280, check=False)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["cells"] == {"done": 5, "failed": {}}
    assert f"{len(finished)} cells were finished before" in again.stderr
    results = read_study(folder)
    assert {name: results[name].rows for name in finished} == {name: result.rows for name, result in finished.items()}
    table = read_table(results["run: naive on two/0, seed 0"].rows)
    assert [fact.updates for fact in table.facts] == [40, 40]


def _updates(home: Path) -> int:
    try:
        with open_store(home) as store:
            return int(store.rows("SELECT count(*) AS n FROM step")[0]["n"])
    except PerdureError:  # there is no store yet
        return 0
