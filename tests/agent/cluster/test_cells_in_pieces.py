"""Cells of studies in processes of their own, placed as child processes and on a real Ray cluster: the same as on one machine, also if one
is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.studies.study_cells import run_here

from perdure.agent.cluster.placement import Placement
from perdure.agent.studies.catalogue import StudySettings, prepare_study
from perdure.agent.studies.cells import CellResult, Study
from perdure.agent.studies.elsewhere.cell_order import asked
from perdure.agent.studies.elsewhere.cluster_cells import ClusterCells
from perdure.agent.studies.local_cells import LocalCells
from perdure.agent.studies.run_cells import run_study
from perdure.agent.studies.study_file import open_study

NAME, SETTINGS = "mode-seeking", StudySettings(small=True, seeds=1)
WAIT_S = 200.0

pytestmark = pytest.mark.processes


def part(number: int) -> Study:
    study = prepare_study(NAME, SETTINGS).study
    return replace(study, cells=lambda finished: study.cells(finished)[:number])


def run(study: Study, folder: Path, placement: Placement, said: list[str]) -> dict[str, CellResult]:
    with open_study(folder) as file:
        here = LocalCells(folder=folder, say=said.append)
        place = ClusterCells(placement=placement, study=study, asked=asked(NAME, SETTINGS), here=here, lost=lambda: None)
        return run_study(study, file, said.append, place)


def piece_processes() -> list[int]:
    """Of the pieces on this machine that do a cell."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[-3:-1] == [b"perdure.agent.cluster.piece_program", b"cell"]:
                found.append(int(folder.name))
    return found


def test_cells_in_pieces_come_to_the_same_as_in_this_process(placement: Placement, tmp_path: Path) -> None:
    said: list[str] = []
    elsewhere = run(part(3), tmp_path / "elsewhere", placement, said)
    with open_study(tmp_path / "here") as file:
        here = run_here(part(3), file, said.append, 1)
    assert {result.error for result in elsewhere.values()} == {None}
    assert {name: result.rows for name, result in elsewhere.items()} == {name: result.rows for name, result in here.items()}


def test_a_cell_whose_process_is_killed_is_done_again_and_kept_once(placement: Placement, tmp_path: Path) -> None:
    before, killed = set(piece_processes()), list[int]()

    def kill_one() -> None:
        until_s = time.monotonic() + WAIT_S
        while not killed and time.monotonic() < until_s:
            for pid in set(piece_processes()) - before:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    said: list[str] = []
    results = run(part(2), tmp_path / "study", placement, said)
    killer.join()
    assert len(killed) == 1
    assert {result.error for result in results.values()} == {None}
    assert sum("it is done again" in line for line in said) == 1, said
    assert len([line for line in said if "2 of 2 cells" in line]) == 1
