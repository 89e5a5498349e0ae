"""Which cells of retaining-by-doing follow from which, and what they come to, with rows made by hand."""

from __future__ import annotations

from collections.abc import Callable
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
from perdure.agent.studies.grid.pilots import base_means, curve_of
from perdure.agent.studies.grid.retaining_choice import decisions
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
    if "versions" not in own:
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
    run = {"arm": own["arm"], "order": own["order"], "seed": own["seed"], "stage": 1}
    rows: list[Document] = []
    for n, version in enumerate(own["versions"]):
        now = {name: scores(BASE[name] + (0.3 if name == ADD else -drop) * version["update"] / 6) for name in own["test"]}
        rows += task_rows(RowPlace(**run, update=version["update"] if n else None), SAMPLED, now)
    facts = StageFacts(**run, targets=(ADD,), updates=own["versions"][0]["update"], tokens=600, seconds=12.0)
    return (*rows, to_document(facts))


def result(cell: Cell, *, error: str | None = None, rows: tuple[Document, ...] | None = None) -> CellResult:
    made = rows if rows is not None else () if error else rows_of(cell)
    return CellResult(name=cell.name, parameters=cell.parameters, made_by="abc", seconds=1.0, rows=made, error=error)


def as_usual(cell: Cell) -> tuple[Document, ...] | None:
    return None


def carried_through(
    file: GridFile,
    failing: str = "nothing",
    nothing_learned: str = "nothing",
    rows: Callable[[Cell], tuple[Document, ...] | None] = as_usual,
) -> dict[str, CellResult]:
    """The whole study. Cells whose name begins with `failing` fail, those with `nothing_learned` come to nothing, and others have `rows`,
    or the usual ones."""
    study, finished = retaining_study(file), dict[str, CellResult]()
    while left := [cell for cell in study.cells(finished) if cell.name not in finished]:
        for cell in left:
            if cell.name.startswith(failing):
                finished[cell.name] = result(cell, error="it broke")
            elif cell.name.startswith(nothing_learned):
                finished[cell.name] = result(cell, rows=({"kind": FAILURE, "error": "nothing to learn from"},))
            else:
                finished[cell.name] = result(cell, rows=rows(cell))
    return finished


def test_bases_come_first_then_pilots_then_runs_then_tests(tmp_path: Path) -> None:
    study, finished = retaining_study(grid(tmp_path)), dict[str, CellResult]()
    waves = []
    while left := [cell for cell in study.cells(finished) if cell.name not in finished]:
        waves.append([cell.name for cell in left])
        finished |= {cell.name: result(cell) for cell in left}
    assert waves[0] == ["base, seed 100", "base, seed 0", "base, seed 1", "base, seed 2"]
    assert waves[1] == [f"pilot: {arm} on addition at {rate}, seed 100" for arm in ("sft", "grpo") for rate in ("0.001", "0.002")]
    sft, grpo, trace = "sft on addition at 0.001", "grpo on addition at 0.001", "trace-sft on addition at 0.001 from traces at 0.001"
    pilots = [f"pilot: trace-sft on addition at {rate} from traces at 0.001, seed 100" for rate in ("0.001", "0.002")]
    assert waves[2] == [*pilots, f"run: {sft}, seed 0", f"run: {grpo}, seed 0"]
    for seed in range(3):
        runs, second, third = waves[2 + 2 * seed : 5 + 2 * seed]
        assert runs[-2:] == [f"run: {sft}, seed {seed}", f"run: {grpo}, seed {seed}"]
        assert second == [f"run: {trace}, seed {seed}", f"test of run: {sft}, seed {seed}, update 6"]
        assert third[:2] == [f"test of run: {grpo}, seed {seed}, update 6", f"test of run: {trace}, seed {seed}, update 6"]
    assert len(waves) == 9


def test_both_versions_of_a_run_are_scored_in_one_cell_once_nothing_copies_its_home(tmp_path: Path) -> None:
    """At a gain of .15 the first of two checkpoints is delivered."""
    text = PLANNED.replace("test = 10", "test = 10\nlast = true") + "[match]\nleast = 0.12\n"
    file = read_grid_file(write(tmp_path, text))
    study, finished = retaining_study(file), dict[str, CellResult]()
    order: list[str] = []
    while left := [cell for cell in study.cells(finished) if cell.name not in finished]:
        order += [cell.name for cell in left]
        homes = [cell.parameters["folder"] for cell in left]
        assert len(set(homes)) == len(homes)  # no two cells of one wave work in one home
        assert not {cell.parameters.get("begins_from") for cell in left} & set(homes)  # nor is one copied that another works in
        for cell in left:
            slow = cell.name.startswith("pilot: sft") and "versions" not in cell.parameters
            made = tuple({**row, "means": {**row["means"], ADD: 0.35}} for row in rows_of(cell)) if slow else None
            finished[cell.name] = result(cell, rows=made)
    tests = [name for name in order if name.startswith("test of run: grpo")]
    assert tests == [f"test of run: grpo on addition at 0.001, seed {seed}, updates 3 and 6" for seed in range(3)]
    traces = "run: trace-sft on addition at 0.001 from traces at 0.001, seed 0"
    assert order.index(traces) < order.index(tests[0])
    places = {(row["update"], row["subject"]) for row in finished[tests[0]].rows if row["kind"] == "observation"}
    assert places == {(update, name) for update in (None, 6) for name in BASE}
    runs = {(run["arm"], run["seed"]): run for run in retaining_summary(file, finished)["runs"]}
    assert runs["grpo", 0]["gain"] == pytest.approx(0.2)  # of .15 in ten tasks, and not of the last update's .3


def test_a_test_waits_also_if_the_run_that_copies_its_home_failed_before(tmp_path: Path) -> None:
    """In the next sitting that run is done again first, and then the test."""
    file = grid(tmp_path)
    finished = {name: one for name, one in carried_through(file).items() if not name.startswith(("run: trace", "test of run: grpo"))}
    left = [cell.name for cell in retaining_study(file).cells(finished) if cell.name not in finished]
    assert left == ["run: trace-sft on addition at 0.001 from traces at 0.001, seed 0"]


def test_the_gain_on_several_targets_is_the_mean_over_them(tmp_path: Path) -> None:
    text = PLANNED.replace('stages = ["perdure:add?shots=3"]', f'stages = [["{ADD}", "{COMPARE}"]]').replace(
        f'environments = ["{COMPARE}"]', ""
    )
    file = read_grid_file(write(tmp_path, text))
    finished = carried_through(file)
    (name,) = [name for name in finished if name.startswith("run: sft on addition at 0.001") and name.endswith("seed 2")]
    assert finished[name].parameters["targets"] == [ADD, COMPARE]
    curve = curve_of(finished[name], base_means(finished["base, seed 2"], SAMPLED_DEV), (ADD, COMPARE))
    assert [one.gain for one in curve] == pytest.approx([(0.15 - 0.1) / 2, (0.3 - 0.2) / 2])
    ended = [row for row in retaining_summary(file, finished)["runs"] if row["arm"] == "sft"]
    assert set(ended[0]["drops"]) == {EVEN}


def test_an_arm_that_learns_from_traces_begins_from_the_home_that_has_them(tmp_path: Path) -> None:
    finished = carried_through(grid(tmp_path))
    run = finished["run: trace-sft on addition at 0.001 from traces at 0.001, seed 1"].parameters
    assert run["begins_from"] == finished["run: grpo on addition at 0.001, seed 1"].parameters["folder"]
    assert run["traces_of"] == "grpo"
    pilot = finished["pilot: trace-sft on addition at 0.002 from traces at 0.001, seed 100"].parameters
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


def test_an_arm_learns_from_traces_at_the_rate_that_its_source_has(tmp_path: Path) -> None:
    """At .002 grpo gains .5 and drops more; it is taken at .001, although .002 has the best gain, and traces have no part in the choice."""
    file = grid(tmp_path)

    def rows(cell: Cell) -> tuple[Document, ...] | None:
        own = cell.parameters
        gain = 0.05 if own.get("arm") == "trace-sft" else 0.5 if own.get("options", {}).get("lr") == 0.002 else None
        return (
            None
            if gain is None or "versions" in own
            else tuple({**row, "means": {**row["means"], ADD: 0.2 + gain}} for row in rows_of(cell))
        )

    finished = carried_through(file, rows=rows)
    decided = decisions(file, finished)
    assert decided.gains == {"addition": pytest.approx(0.5)}
    assert {arm: rate for (arm, _), rate in decided.rates.items()} == {"sft": 0.002, "grpo": 0.002, "trace-sft": 0.001}
    pilot = finished["pilot: trace-sft on addition at 0.001 from traces at 0.002, seed 100"].parameters
    run = finished["run: trace-sft on addition at 0.001 from traces at 0.002, seed 0"].parameters
    assert pilot["begins_from"] == finished["pilot: grpo on addition at 0.002, seed 100"].parameters["folder"]
    assert run["begins_from"] == finished["run: grpo on addition at 0.002, seed 0"].parameters["folder"]
    assert [one["arm"] for one in retaining_summary(file, finished)["not_comparable"]] == ["trace-sft"]


def test_an_arm_whose_pilots_broke_decides_nothing_and_the_rest_goes_on(tmp_path: Path) -> None:
    """What sft would have gained at .001 is not known, so what it gained at .002 does not count either."""
    file = grid(tmp_path)
    finished = carried_through(file, failing="pilot: sft on addition at 0.001")
    assert not [name for name in finished if name.startswith("run: sft")]
    document = retaining_summary(file, finished)
    assert {run["arm"] for run in document["runs"]} == {"grpo", "trace-sft"}
    broken = "pilot: sft on addition at 0.001, seed 100"
    assert [(one["arm"], one["why"]) for one in document["not_comparable"]] == [("sft", f"its pilots failed: {broken}: it broke")]
    assert document["failures"] == [{"cell": broken, "error": "it broke"}]
    assert document["claims"][0]["verdict"] == "refused"
    assert list(retaining_study(file).spent(finished)) == []  # once it is mended, another checkpoint may be tested
    mended = {name: one for name, one in finished.items() if one.error is None}
    assert [cell.name for cell in retaining_study(file).cells(mended) if cell.name not in mended] == [broken]


def test_an_arm_whose_source_has_no_rate_is_not_run(tmp_path: Path) -> None:
    file = grid(tmp_path)
    finished = carried_through(file, failing="pilot: grpo")
    assert not [name for name in finished if "trace-sft" in name]
    why = {one["arm"]: one["why"] for one in retaining_summary(file, finished)["not_comparable"]}
    assert why["trace-sft"] == "grpo, whose traces it learns from, has no rate"
    assert why["grpo"].startswith("its pilots failed: pilot: grpo")


def test_without_the_base_of_a_pilot_no_arm_is_compared(tmp_path: Path) -> None:
    file = grid(tmp_path)
    finished = carried_through(file, failing="base, seed 100")
    assert set(finished) == {"base, seed 100", "base, seed 0", "base, seed 1", "base, seed 2"}
    assert {one["why"] for one in retaining_summary(file, finished)["not_comparable"]} == {
        "its pilots failed: base, seed 100: it broke",
        "grpo, whose traces it learns from, has no rate",
    }


def test_an_arm_is_not_comparable_if_a_run_came_to_nothing_or_failed(tmp_path: Path) -> None:
    """The runs that went well say nothing of those that did not."""
    file = grid(tmp_path)
    finished = carried_through(file, nothing_learned="run: sft on addition at 0.001, seed 1")
    document = retaining_summary(file, finished)
    (away,) = document["not_comparable"]
    said = "its runs gained 0.20 on dev tasks, counting 0 for 1 of 3 that came to nothing, and the matched gain is 0.30"
    assert (away["arm"], away["why"]) == ("sft", said)
    sft = next(one for one in document["arms"] if one["arm"] == "sft")
    assert (sft["n"], sft["planned"], sft["comparable"]) == (2, 3, False)
    assert document["claims"][0]["verdict"] == "refused"
    file = read_grid_file(write(tmp_path, PLANNED.replace("seeds = [100]", "seeds = [9]")))
    for failing in ("run: sft on addition at 0.001, seed 1", "base, seed 1"):
        document = retaining_summary(file, carried_through(file, failing=failing))
        why = {one["arm"]: one["why"] for one in document["not_comparable"]}
        assert why["sft"] == "1 of its 3 runs have no result (seed 1)"
        assert ("grpo" in why) == (failing == "base, seed 1")
    document = retaining_summary(file, carried_through(file, nothing_learned="run: sft"))
    assert next(one for one in document["arms"] if one["arm"] == "sft")["comparable"] is False
    print_retaining(document)


def test_an_arm_that_jumps_over_the_matched_gain_is_not_comparable(tmp_path: Path) -> None:
    """grpo has .05, then .60, and sft .30 at most: at .60 grpo would be compared at twice the gain."""
    file = grid(tmp_path)

    def rows(cell: Cell) -> tuple[Document, ...] | None:
        own = cell.parameters
        if own.get("arm") != "grpo" or "versions" in own:
            return None
        return tuple({**row, "means": {**row["means"], ADD: 0.25 if row["update"] == 3 else 0.9}} for row in rows_of(cell))

    document = retaining_summary(file, carried_through(file, rows=rows))
    assert document["matched_gain"] == {"addition": pytest.approx(0.3)}
    why = {one["arm"]: one["why"] for one in document["not_comparable"]}
    assert why == {"grpo": "its runs gained 0.05 on dev tasks, and the matched gain is 0.30"}
    assert document["claims"][0]["verdict"] == "refused"


def test_homes_that_no_cell_needs_any_more_are_named(tmp_path: Path) -> None:
    file, study = grid(tmp_path), retaining_study(grid(tmp_path))
    finished = carried_through(file)
    spent = set(study.spent(finished))
    named = {one.parameters["folder"] for name, one in finished.items() if name.startswith(("run", "pilot: grpo"))}
    assert spent == named
    trace = "run: trace-sft on addition at 0.001 from traces at 0.001, seed 2"
    for missing in (trace, "test of run: grpo on addition at 0.001, seed 2, update 6"):
        part = {name: one for name, one in finished.items() if name != missing}
        source = finished["run: grpo on addition at 0.001, seed 2"].parameters["folder"]
        assert source not in study.spent(part)
        assert finished["run: sft on addition at 0.001, seed 2"].parameters["folder"] in study.spent(part)
    kept = read_grid_file(write(tmp_path, PLANNED.replace("test = 10", "test = 10\nkeep_weights = true")))
    assert list(retaining_study(kept).spent(finished)) == []


def test_a_base_that_can_show_little_is_warned_of(tmp_path: Path) -> None:
    """The target has .2, which is right; only two environments are no target."""
    file = grid(tmp_path)
    finished = carried_through(file)
    (warning,) = retaining_summary(file, finished)["warnings"]
    assert warning.startswith("the base is between 0.20 and 0.90 in 2 environments that are no target")
    for seed in range(3):
        cell = finished[f"base, seed {seed}"]
        rows = tuple({**row, "score": 1.0} if row["subject"] == ADD else row for row in cell.rows)
        finished[cell.name] = replace(cell, rows=rows)
    assert retaining_summary(file, finished)["warnings"][0].startswith(f"the base has 1.00 of the target {ADD}: from 0.05 to 0.40")


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
    assert {run["note"] for run in document["runs"] if run["arm"] == "sft"} == {"its dev gain nearest to 0.30 is 0.06"}
    (away,) = document["not_comparable"]
    assert away["why"] == "its runs gained 0.06 on dev tasks, and the matched gain is 0.30"


def test_without_pilots_every_run_delivers_its_last_checkpoint(tmp_path: Path) -> None:
    text = PLANNED.replace("[pilots]\nrates = [0.001, 0.002]\nseeds = [100]\n", "")
    file = read_grid_file(write(tmp_path, text.replace("updates = 6", "updates = 6\nlr = 0.001")))
    finished = carried_through(file)
    assert "run: grpo on addition at as given, seed 0" in finished
    assert "test of run: grpo on addition at as given, seed 0, update 6" in finished
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
