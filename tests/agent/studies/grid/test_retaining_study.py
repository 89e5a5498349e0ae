"""Which cells of retaining-by-doing follow from which, and what they come to, with rows made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.studies.grid.small_grids import PLANNED, write

from perdure.agent.metrics.arm_summary import metrics_by_arm
from perdure.agent.metrics.measured_run import measured_runs
from perdure.agent.metrics.observation import StageFacts, read_table, to_document
from perdure.agent.studies.cells import Cell, CellResult
from perdure.agent.studies.grid.grid_file import GridFile, read_grid_file
from perdure.agent.studies.grid.grid_table import print_retaining
from perdure.agent.studies.grid.retaining_choice import curve_of
from perdure.agent.studies.grid.retaining_study import retaining_study
from perdure.agent.studies.grid.retaining_summary import retaining_summary
from perdure.agent.studies.grid.table_rows import CHECKPOINT, FAILURE, SAMPLED, SAMPLED_DEV, RowPlace, task_rows
from perdure.memory.json_value import Document

ADD, COMPARE, EVEN = "perdure:add?shots=3", "perdure:compare?shots=3", "perdure:even-odd?shots=3"
BASE = {ADD: 0.2, COMPARE: 0.5, EVEN: 0.6}
DROPS = {"sft": 0.2, "grpo": 0.0, "trace-sft": 0.1}
"""Of each arm after six updates at the rate .001; at .002 twice as much."""
OFF = {("sft", 0): -0.1, ("sft", 1): 0.1}
"""By arm and seed, so that the seeds of an arm differ."""


def grid(folder: Path) -> GridFile:
    return read_grid_file(write(folder, PLANNED))


def scores(mean: float) -> dict[int, float]:
    """Ten tasks."""
    return {task: float(task < round(10 * mean)) for task in range(10)}


def rows_of(cell: Cell) -> tuple[Document, ...]:
    """What a cell would have measured: a gain of .3 in six updates, and the arm's drop."""
    own = cell.parameters
    if cell.name.startswith("base"):
        place = RowPlace(arm="base", order="", seed=own["seed"], stage=0)
        dev = {name: scores(BASE[name]) for name in own["dev"]}
        return (*task_rows(place, SAMPLED_DEV, dev), *task_rows(place, SAMPLED, {name: scores(BASE[name]) for name in own["test"]}))
    rate = own["options"]["lr"] if "options" in own else 0.001
    drop = (DROPS[own["arm"]] + OFF.get((own["arm"], own["seed"]), 0.0)) * (2 if rate == 0.002 else 1)
    if "checkpoint" not in own:
        return tuple(
            {
                "kind": CHECKPOINT,
                "update": update,
                "version": f"job1.1-{update}",
                "means": {name: BASE[name] + (0.3 if name == ADD else -drop) * update / 6 for name in own["dev"]},
                "tokens": 100 * update,
                "seconds": 2.0 * update,
            }
            for update in own["checkpoints"]
        )
    update = own["checkpoint"]["update"]
    place = RowPlace(arm=own["arm"], order=own["order"], seed=own["seed"], stage=1)
    now = {name: scores(BASE[name] + (0.3 if name == ADD else -drop) * update / 6) for name in own["test"]}
    facts = StageFacts(arm=place.arm, order=place.order, seed=place.seed, stage=1, targets=(ADD,), updates=update, tokens=600, seconds=12.0)
    return (*task_rows(place, SAMPLED, now), to_document(facts))


def result(cell: Cell, *, error: str | None = None, rows: tuple[Document, ...] | None = None) -> CellResult:
    made = rows if rows is not None else () if error else rows_of(cell)
    return CellResult(name=cell.name, parameters=cell.parameters, made_by="abc", seconds=1.0, rows=made, error=error)


def carried_through(file: GridFile, failing: str = "nothing", nothing_learned: str = "nothing") -> dict[str, CellResult]:
    """The whole study. Cells whose name begins with `failing` fail, and those with `nothing_learned` come to nothing."""
    study, finished = retaining_study(file), dict[str, CellResult]()
    while left := [cell for cell in study.cells(finished) if cell.name not in finished]:
        for cell in left:
            if cell.name.startswith(failing):
                finished[cell.name] = result(cell, error="it broke")
            elif cell.name.startswith(nothing_learned):
                finished[cell.name] = result(cell, rows=({"kind": FAILURE, "error": "nothing to learn from"},))
            else:
                finished[cell.name] = result(cell)
    return finished


def test_bases_come_first_then_pilots_then_runs_then_tests(tmp_path: Path) -> None:
    study, finished = retaining_study(grid(tmp_path)), dict[str, CellResult]()
    waves = []
    while left := [cell for cell in study.cells(finished) if cell.name not in finished]:
        waves.append([cell.name for cell in left])
        finished |= {cell.name: result(cell) for cell in left}
    assert waves[0] == ["base, seed 100", "base, seed 0", "base, seed 1", "base, seed 2"]
    assert waves[1] == [f"pilot: {arm} on addition at {rate}, seed 100" for arm in ("sft", "grpo") for rate in ("0.001", "0.002")]
    assert waves[2] == [f"pilot: trace-sft on addition at {rate}, seed 100" for rate in ("0.001", "0.002")]
    assert waves[3] == [f"run: {arm} on addition at 0.001, seed {seed}" for seed in range(3) for arm in ("sft", "grpo")]
    tests = [f"test of run: {arm} on addition at 0.001, seed {seed}, update 6, delivered" for seed in range(3) for arm in ("sft", "grpo")]
    assert waves[4] == [*(f"run: trace-sft on addition at 0.001, seed {seed}" for seed in range(3)), *tests]
    assert waves[5] == [f"test of run: trace-sft on addition at 0.001, seed {seed}, update 6, delivered" for seed in range(3)]
    assert len(waves) == 6


def test_the_gain_on_several_targets_is_the_mean_over_them(tmp_path: Path) -> None:
    text = PLANNED.replace('stages = ["perdure:add?shots=3"]', f'stages = [["{ADD}", "{COMPARE}"]]').replace(
        f'environments = ["{COMPARE}"]', ""
    )
    file = read_grid_file(write(tmp_path, text))
    finished = carried_through(file)
    (name,) = [name for name in finished if name.startswith("run: sft on addition at 0.001") and name.endswith("seed 2")]
    assert finished[name].parameters["targets"] == [ADD, COMPARE]
    curve = curve_of(finished[name], finished["base, seed 2"], (ADD, COMPARE))
    assert [one.gain for one in curve] == pytest.approx([(0.15 - 0.1) / 2, (0.3 - 0.2) / 2])
    ended = [row for row in retaining_summary(file, finished)["runs"] if row["arm"] == "sft"]
    assert set(ended[0]["drops"]) == {EVEN}


def test_an_arm_that_learns_from_traces_begins_from_the_home_that_has_them(tmp_path: Path) -> None:
    finished = carried_through(grid(tmp_path))
    run = finished["run: trace-sft on addition at 0.001, seed 1"].parameters
    assert run["begins_from"] == finished["run: grpo on addition at 0.001, seed 1"].parameters["folder"]
    assert run["traces_of"] == "grpo"
    pilot = finished["pilot: trace-sft on addition at 0.002, seed 100"].parameters
    assert pilot["begins_from"] == finished["pilot: grpo on addition at 0.001, seed 100"].parameters["folder"]
    assert finished["pilot: grpo on addition at 0.001, seed 100"].parameters["keeps_home"]
    assert not finished["pilot: sft on addition at 0.001, seed 100"].parameters["keeps_home"]
    assert finished["run: grpo on addition at 0.001, seed 1"].parameters["begins_from"] == "base-1"


def test_environments_that_no_home_knows_are_measured_all_the_same(tmp_path: Path) -> None:
    finished = carried_through(grid(tmp_path))
    base = finished["base, seed 0"].parameters
    assert base["known"] == [ADD, COMPARE]
    assert set(base["test"]) == {ADD, COMPARE, EVEN}
    assert set(finished["pilot: sft on addition at 0.001, seed 100"].parameters["dev"]) == {ADD, COMPARE, EVEN}
    assert set(finished["run: sft on addition at 0.001, seed 0"].parameters["dev"]) == {ADD}


def test_the_summary_has_gains_drops_rates_and_claims(tmp_path: Path) -> None:
    file = grid(tmp_path)
    document = retaining_summary(file, carried_through(file))
    assert document["matched_gain"] == {"addition": pytest.approx(0.3)}
    assert {(one["arm"], one["rate"]) for one in document["rates"]} == {("sft", 0.001), ("grpo", 0.001), ("trace-sft", 0.001)}
    runs = {(run["arm"], run["seed"]): run for run in document["runs"]}
    assert runs["sft", 2]["gain"] == pytest.approx(0.3)
    assert runs["sft", 2]["drop"] == pytest.approx(0.2)
    assert runs["sft", 2]["drop_unseen"] == pytest.approx(0.2)
    assert runs["grpo", 0]["drop"] == pytest.approx(0.0)
    assert runs["grpo", 0]["panel_drop"] is None
    (claim,) = document["claims"]
    assert (claim["verdict"], claim["n"]) == ("holds", 3)
    arms = {one["arm"]: one for one in document["arms"]}
    assert arms["sft"]["drop"]["value"] == pytest.approx(0.2)
    assert document["not_comparable"] == []
    print_retaining(document)


def test_the_metrics_read_the_same_rows_and_agree(tmp_path: Path) -> None:
    file = grid(tmp_path)
    finished = carried_through(file)
    measured = measured_runs(read_table(row for one in finished.values() for row in one.rows))
    assert len(measured) == 9
    by_arm = metrics_by_arm(measured)
    for one in retaining_summary(file, finished)["arms"]:
        assert by_arm[one["arm"]]["drop"].estimate.value == pytest.approx(one["drop"]["value"])
        assert by_arm[one["arm"]]["gain"].estimate.value == pytest.approx(one["gain"]["value"])


def test_a_pilot_that_breaks_is_left_out_and_the_rest_goes_on(tmp_path: Path) -> None:
    file = grid(tmp_path)
    finished = carried_through(file, failing="pilot: sft on addition at 0.001")
    assert "run: sft on addition at 0.002, seed 0" in finished
    done = {name: one for name, one in finished.items() if one.error is None}
    assert len([run for run in retaining_summary(file, done)["runs"] if "gain" in run]) == 9


def test_an_arm_whose_pilots_learn_nothing_is_not_comparable_and_the_claim_is_refused(tmp_path: Path) -> None:
    file = grid(tmp_path)
    finished = carried_through(file, nothing_learned="pilot: sft")
    assert not [name for name in finished if name.startswith("run: sft")]
    document = retaining_summary(file, finished)
    assert [(one["arm"], one["why"]) for one in document["not_comparable"]] == [("sft", "none of its pilots learned anything")]
    assert document["claims"][0]["verdict"] == "refused"
    assert [one["cell"] for one in document["failures"]] == [name for name in finished if name.startswith("pilot: sft")]
    assert document["matched_gain"]["addition"] == pytest.approx(0.3)


def test_a_run_that_misses_the_matched_gain_delivers_its_best_and_says_so(tmp_path: Path) -> None:
    file = grid(tmp_path)
    finished = carried_through(file)
    for seed in range(3):
        name = f"run: sft on addition at 0.001, seed {seed}"
        low = tuple({**row, "means": {**row["means"], ADD: 0.2 + 0.01 * row["update"]}} for row in finished[name].rows)
        finished[name] = replace(finished[name], rows=low)
    document = retaining_summary(file, finished)
    assert {run["note"] for run in document["runs"] if run["arm"] == "sft"} == {"its best dev gain is 0.06, less than 0.30"}
    (away,) = document["not_comparable"]
    assert away["why"] == "its runs gained 0.06 on dev tasks, and the matched gain is 0.30"


def test_without_pilots_every_run_delivers_its_last_checkpoint(tmp_path: Path) -> None:
    text = PLANNED.replace("[pilots]\nrates = [0.001, 0.002]\nseeds = [100]\n", "")
    file = read_grid_file(write(tmp_path, text.replace("updates = 6", "updates = 6\nlr = 0.001")))
    finished = carried_through(file)
    assert "run: grpo on addition at as given, seed 0" in finished
    assert "test of run: grpo on addition at as given, seed 0, update 6, delivered" in finished
    document = retaining_summary(file, finished)
    assert document["matched_gain"] == {}
    assert document["not_comparable"] == []
    assert document["claims"][0]["verdict"] == "holds"


def test_what_is_not_finished_is_left_out(tmp_path: Path) -> None:
    file = grid(tmp_path)
    finished = carried_through(file)
    part = {name: one for name, one in finished.items() if not name.startswith("test of run: grpo")}
    document = retaining_summary(file, part)
    assert document["claims"][0]["verdict"] == "refused"
    assert {run["arm"] for run in document["runs"] if "gain" in run} == {"sft", "trace-sft"}
    assert retaining_summary(file, {})["runs"] == []
