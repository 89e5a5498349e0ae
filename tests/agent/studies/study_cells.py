"""Cells for tests of the runner. Each writes down that it was done, so that a test sees if it is done twice."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from perdure.agent.studies.cells import Cell, CellResult, Desk, Finished, Study
from perdure.agent.studies.local_cells import LocalCells
from perdure.agent.studies.run_cells import run_study
from perdure.agent.studies.study_file import StudyFile
from perdure.memory.errors import InputError
from perdure.memory.json_value import Document

DIARY = "diary"


def noted(parameters: Document, desk: Desk) -> Iterator[Document]:
    with (desk.folder / DIARY).open("a") as diary:
        diary.write(f"{parameters['n']}\n")
    yield {"n": parameters["n"], "square": parameters["n"] ** 2}


def slow(parameters: Document, desk: Desk) -> Iterator[Document]:
    yield from noted(parameters, desk)
    time.sleep(0.2)


def endless(parameters: Document, desk: Desk) -> Iterator[Document]:
    yield from noted(parameters, desk)
    time.sleep(3600)


def failing(parameters: Document, desk: Desk) -> Iterator[Document]:
    """Fails until the file `mended` lies in the study's folder."""
    yield {"n": "unfinished"}
    if not (desk.folder / "mended").exists():
        raise InputError(f"cell {parameters['n']} cannot be done yet")


def deadly(parameters: Document, desk: Desk) -> Iterator[Document]:
    """Kills its process if its number is odd, until the file `mended` lies in the study's folder."""
    yield from slow(parameters, desk)
    if parameters["n"] % 2 and not (desk.folder / "mended").exists():
        os.kill(os.getpid(), signal.SIGKILL)


def deadly_beside_another(parameters: Document, desk: Desk) -> Iterator[Document]:
    """Kills its process if another such cell is being done, as two do that take too much memory together. The first waits for a second."""
    (desk.folder / f"begun-{parameters['n']}").touch()
    while len(list(desk.folder.glob("begun-*"))) < 2:
        time.sleep(0.05)
    with (desk.folder / "memory").open("w") as memory:
        try:
            fcntl.flock(memory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.3)
    yield from noted(parameters, desk)


def own_pid(parameters: Document, desk: Desk) -> Iterator[Document]:
    yield {"pid": os.getpid()}


def cells_of(n: int, work: object = noted) -> list[Cell]:
    return [Cell(name=f"cell {k}", parameters={"n": k}, work=work) for k in range(n)]  # type: ignore[arg-type]


def study_of(*cells: Cell) -> Study:
    return Study(name="test", cells=lambda finished: cells)


def growing(finished: Finished) -> list[Cell]:
    """Two cells, and one more for each that is finished, up to five."""
    return [Cell(name=f"cell {k}", parameters={"n": k}, work=noted, alone=True) for k in range(min(5, 2 + len(finished)))]


def diary(folder: Path) -> list[str]:
    return (folder / DIARY).read_text().split()


def run_here(study: Study, file: StudyFile, say: Callable[[str], None], at_once: int) -> dict[str, CellResult]:
    """Do what is left of a study on this machine."""
    return run_study(study, file, say, LocalCells(folder=file.folder, say=say, at_once=at_once))
