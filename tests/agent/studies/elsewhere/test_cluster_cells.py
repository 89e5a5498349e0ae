"""Cells on a cluster come to what they come to on one machine, whatever dies on the way; nodes that differ are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.studies.elsewhere.placements import NAME, SETTINGS, InThisProcess, NoRoom, OftenSilent, run
from tests.agent.studies.study_cells import run_here

from perdure import __version__
from perdure.agent.cluster.placement import ClusterPiece, PieceEnd
from perdure.agent.studies.catalogue import StudySettings, prepare_study
from perdure.agent.studies.cells import Cell, CellResult, Study
from perdure.agent.studies.elsewhere.cell_message import read_message, write_message
from perdure.agent.studies.elsewhere.cell_piece import run as run_cell
from perdure.agent.studies.elsewhere.cluster_cells import TRIES, travels
from perdure.agent.studies.study_file import open_study, read_study
from perdure.memory.errors import InputError, Unavailable

pytestmark = pytest.mark.processes  # `made_by` asks git


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the node's cells."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def part(number: int) -> Study:
    """The first cells of a study that comes with Perdure."""
    study = prepare_study(NAME, SETTINGS).study
    return replace(study, cells=lambda finished: study.cells(finished)[:number])


def key_of(result: CellResult) -> str:
    return f"{NAME}: {result.name}"


def test_cells_come_to_the_same_as_on_this_machine(tmp_path: Path) -> None:
    said: list[str] = []
    elsewhere = run(part(3), tmp_path / "elsewhere", InThisProcess(), said)
    with open_study(tmp_path / "here") as file:
        here = run_here(part(3), file, said.append, 1)
    assert {name: result.rows for name, result in elsewhere.items()} == {name: result.rows for name, result in here.items()}
    assert all(result.rows and result.error is None for result in elsewhere.values())
    assert read_study(tmp_path / "elsewhere") == elsewhere
    assert said[0] == "3 cells to do now, as many at a time as the cluster has room for"


def test_finished_cells_are_not_sent_again(tmp_path: Path) -> None:
    run(part(2), tmp_path / "study", InThisProcess())
    second = InThisProcess()
    results = run(part(3), tmp_path / "study", second)
    assert second.starts == [key_of(list(results.values())[2])]


def test_a_cell_that_dies_is_done_again_and_given_once(tmp_path: Path) -> None:
    def first_dies(piece: ClusterPiece, start: int) -> Sequence[PieceEnd] | None:
        return [PieceEnd(key=piece.key, error="its node died", lost=True)] if start == 1 else None

    placement, said = InThisProcess(first_dies), []
    results = run(part(2), tmp_path / "study", placement, said)
    assert {result.error for result in results.values()} == {None}
    assert sorted(placement.starts) == sorted(2 * [key_of(result) for result in results.values()])
    assert sum("its node died; it is done again" in line for line in said) == 2


def test_a_cell_that_always_dies_has_failed_and_the_rest_goes_on(tmp_path: Path) -> None:
    doomed = part(3).cells({})[1].name

    def dies(piece: ClusterPiece, start: int) -> Sequence[PieceEnd] | None:
        return [PieceEnd(key=piece.key, lost=True, error="killed")] if doomed in piece.key else None

    placement = InThisProcess(dies)
    results = run(part(3), tmp_path / "study", placement)
    assert results[doomed].error == f"it was started {TRIES} times, and each time its process or its node died: killed"
    assert len(placement.starts) == 2 + TRIES
    assert [result.error for name, result in results.items() if name != doomed] == [None, None]


def test_an_end_that_comes_twice_counts_once(tmp_path: Path) -> None:
    def twice(piece: ClusterPiece, start: int) -> Sequence[PieceEnd]:
        end = PieceEnd(key=piece.key, answer=run_cell(piece.order, lambda: False, print))
        return [end, end]

    said: list[str] = []
    assert len(run(part(2), tmp_path / "study", InThisProcess(twice), said)) == 2
    assert said[-1].split(", ")[-2].endswith("2 of 2 cells")


@pytest.mark.parametrize("answer", [b"", b"nonsense", write_message({"result": {"name": "other"}}), write_message({})])
def test_what_is_no_answer_of_the_cell_is_refused(tmp_path: Path, answer: bytes) -> None:
    placement = InThisProcess(lambda piece, start: [PieceEnd(key=piece.key, answer=answer)])
    (result,) = run(part(1), tmp_path / "study", placement).values()
    assert result.error is not None
    assert result.rows == ()


def test_an_answer_cannot_write_where_it_was_not_asked_to(tmp_path: Path) -> None:
    (tmp_path / "node" / "study.db").mkdir(parents=True)
    (tmp_path / "node" / "study.db" / "x").write_text("x")

    def intrudes(piece: ClusterPiece, start: int) -> Sequence[PieceEnd]:
        document = read_message(run_cell(piece.order, lambda: False, print)).document
        return [PieceEnd(key=piece.key, answer=write_message(document, tmp_path / "node", ["study.db"]))]

    (result,) = run(part(1), tmp_path / "study", InThisProcess(intrudes)).values()
    assert result.error == "the answer has files in study.db, which the cell does not leave"


def test_a_node_with_another_program_refuses_a_cell(tmp_path: Path) -> None:
    (cell,) = part(1).cells({})
    changed = replace(cell, parameters={**cell.parameters, "seeds": 7})
    (result,) = run(Study(name=NAME, cells=lambda finished: [changed]), tmp_path / "study", InThisProcess()).values()
    assert result.error is not None
    assert "has other parameters on this node" in result.error
    unknown = replace(cell, name="another")
    (result,) = run(Study(name=NAME, cells=lambda finished: [unknown]), tmp_path / "second", InThisProcess()).values()
    assert result.error is not None
    assert "has no cell 'another' on this node" in result.error


def test_another_version_of_perdure_is_refused_with_both_named(tmp_path: Path) -> None:
    orders: list[bytes] = []

    def keep(piece: ClusterPiece, start: int) -> None:
        orders.append(piece.order)

    run(part(1), tmp_path / "study", InThisProcess(keep))
    document = {**read_message(orders[0]).document, "perdure": "0.0.9"}
    with pytest.raises(InputError, match=f"the head has Perdure 0.0.9, this node has {__version__}"):
        run_cell(write_message(document), lambda: False, print)


def test_cells_that_nobody_takes_fail_after_a_limit_and_say_why(tmp_path: Path) -> None:
    placement = NoRoom()
    results = run(part(4), tmp_path / "study", placement, give_up_s=0.0)
    assert {result.error for result in results.values()} == {"no machine took it in 0 s: asks for 1 GPU; 0 of 2 nodes have one"}
    assert len(results) == 4
    assert sorted(placement.stopped) == sorted(placement.starts)


def test_a_cluster_that_does_not_answer_for_a_while_is_waited_for(tmp_path: Path) -> None:
    placement = OftenSilent()
    assert {result.error for result in run(part(3), tmp_path / "study", placement).values()} == {None}
    assert placement.asked > 1


def test_a_cluster_that_is_lost_ends_the_run_and_what_is_finished_is_kept(tmp_path: Path) -> None:
    ends = iter([None, "the head does not answer"])
    with pytest.raises(Unavailable, match="the head does not answer; what is finished is kept"):
        run(part(3), tmp_path / "study", InThisProcess(), lost=lambda: next(ends))
    assert len(read_study(tmp_path / "study")) == 2
    second = InThisProcess()
    run(part(3), tmp_path / "study", second)
    assert len(second.starts) == 1


def test_cells_for_a_whole_machine_stay_here_unless_they_ask_for_its_gpu() -> None:
    (life, *_) = prepare_study("life", StudySettings()).study.cells({})
    assert not travels(life)
    assert travels(Cell(name="x", parameters={}, work=life.work))
    assert travels(replace(life, gpus=1))
