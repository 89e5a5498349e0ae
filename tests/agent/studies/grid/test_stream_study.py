"""Which cells a study of several stages has, and what it comes to, with rows made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.agent.studies.grid.small_grids import write

from perdure.agent.metrics.observation import StageFacts, to_document
from perdure.agent.studies.cells import Cell, CellResult
from perdure.agent.studies.grid.grid_arms import check_grid
from perdure.agent.studies.grid.grid_file import read_grid_file
from perdure.agent.studies.grid.grid_table import print_stream
from perdure.agent.studies.grid.stream_study import stream_study, stream_summary
from perdure.agent.studies.grid.table_rows import SAMPLED, RowPlace, task_rows
from perdure.memory.json_value import Document

TEXT = """
[study]
name = "planned-stream"
kind = "long-stream"

[grid]
learners = ["grpo"]
helpers = ["naive", "gated", "joint", "single"]
streams = ["three"]
orders = 2
seeds = [0, 1, 2]

[options]
updates = 4

[helpers.naive]
arm = "naive"

[helpers.gated]
arm = "gated"
gate = true
live = 7
options = { replay = 0.5 }

[helpers.joint]
arm = "joint"
at_once = true

[helpers.single]
arm = "single"
from_base = true

[streams.three]
stages = ["perdure:add?shots=3", ["perdure:compare?shots=3", "perdure:even-odd?shots=3"], "perdure:opposite?shots=3"]

[measure]
test = 10

[[claims]]
first = "gated"
second = "naive"
of = "bwt"
more_than = 0.0
"""
LOST = {"naive": 0.2, "gated": 0.0, "joint": 0.0, "single": 0.0}
"""At each later stage; seed 1 of naive loses .1 more."""


def rows_of(cell: Cell) -> tuple[Document, ...]:
    """What is learned rises from .2 to .7, and falls by as much as the arm loses in each later stage."""
    own = cell.parameters
    if cell.name.startswith("base"):
        place = RowPlace(arm="base", order="", seed=own["seed"], stage=0)
        return tuple(task_rows(place, SAMPLED, {name: scores(0.2) for name in own["test"]}))
    rows: list[Document] = []
    learned: dict[str, float] = {}
    for stage, targets in enumerate(own["stages"], start=1):
        lost = LOST[own["arm"]] + 0.1 * ((own["arm"], own["seed"]) == ("naive", 1))
        learned = {name: score - lost for name, score in learned.items()} | dict.fromkeys(targets, 0.7)
        place = RowPlace(arm=own["arm"], order=own["order"], seed=own["seed"], stage=stage)
        rows += task_rows(place, SAMPLED, {name: scores(learned.get(name, 0.2)) for name in own["test"]})
        made = 4 if place.arm != "gated" or place.seed else 3
        facts = StageFacts(arm=place.arm, order=place.order, seed=place.seed, stage=stage, targets=tuple(targets), updates=made)
        rows.append(to_document(facts))
    return tuple(rows)


def scores(mean: float) -> dict[int, float]:
    return {task: float(task < round(10 * mean)) for task in range(10)}


def test_every_arm_runs_every_order_with_every_seed(tmp_path: Path) -> None:
    file = read_grid_file(write(tmp_path, TEXT))
    check_grid(file)
    cells = {cell.name: cell.parameters for cell in stream_study(file).cells({})}
    assert len(cells) == 3 + 2 * 2 * 3 + 2 * 3
    naive, gated = (cells[f"run: {arm} on three/1, seed 2"] for arm in ("naive", "gated"))
    joint, single = (cells[f"run: {arm} on three/0, seed 2"] for arm in ("joint", "single"))
    assert naive["stages"] == [
        ["perdure:opposite?shots=3"],
        ["perdure:compare?shots=3", "perdure:even-odd?shots=3"],
        ["perdure:add?shots=3"],
    ]
    assert (naive["gate"], gated["gate"], gated["options"]["replay"]) == (False, True, 0.5)
    assert joint["stages"] == [[name for stage in reversed(naive["stages"]) for name in stage]]
    assert joint["options"]["updates"] == 12
    assert (single["from_base"], naive["from_base"]) == (True, False)
    assert naive["options"]["check_every"] == 0
    assert (naive["live"], gated["live"]) == (2, 7)
    assert len({cell["training_seed"] for name, cell in cells.items() if name.startswith("run: naive")}) == 6


def test_the_summary_compares_every_arm_with_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = read_grid_file(write(tmp_path, TEXT))
    finished = {
        cell.name: CellResult(name=cell.name, parameters=cell.parameters, made_by="abc", seconds=1.0, rows=rows_of(cell))
        for cell in stream_study(file).cells({})
    }
    document = stream_summary(file, finished)
    arms = document["arms"]
    assert arms["naive"]["bwt"]["value"] < -0.2
    assert arms["gated"]["bwt"]["value"] == pytest.approx(0.0)
    assert arms["naive"]["bwt"]["n"] == 3
    assert arms["gated"]["intransigence_joint"]["value"] == pytest.approx(0.0)
    difference = next(one for one in document["differences"] if (one["first"], one["metric"]) == ("gated", "bwt"))
    assert (difference["second"], difference["n"]) == ("naive", 3)
    assert difference["value"] > 0.2
    assert document["claims"][0]["verdict"] == "holds"
    assert set(arms) == {"naive", "gated", "joint"}  # each stage of `single` is another model
    assert {one["first"] for one in document["differences"]} == {"gated", "joint"}
    assert arms["gated"]["intransigence_single"]["value"] == pytest.approx(0.0)  # but the others are measured against it
    assert document["updates"]["naive"] == {"mean": 12, "least": 12, "most": 12}
    assert document["updates"]["gated"] == {"mean": 11, "least": 9, "most": 12}
    print_stream(document)
    assert "11 (9 to 12)" in capsys.readouterr().out
    assert stream_summary(file, {})["arms"] == {}
