"""Doing the cells of a study: those that are not finished, several at once if there is room, each kept as soon as it ends.

A cell that fails is marked with its error, and the rest goes on; the next run tries it again. A run that is killed loses only the cells
that were being done, and those that take long continue where they stopped if they kept their work in the study's folder.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence

from perdure.agent.bench.measure import TimeLeft
from perdure.agent.studies.cell_processes import Say
from perdure.agent.studies.cells import Cell, CellPlace, CellResult, Finished, Study, done
from perdure.agent.studies.study_file import StudyFile
from perdure.memory.errors import InputError

SAY_EVERY_S = 5.0
SAY_FIRST_S = 180.0


def run_study(study: Study, file: StudyFile, say: Say, place: CellPlace) -> dict[str, CellResult]:
    """Do what is left of a study at a place, and give the cells that it consists of: all are done, or have failed in this run.

    Raises `InputError` if the file has a cell of the same name with other parameters.
    """
    tried: dict[str, CellResult] = {}
    progress: _Progress | None = None
    while True:
        known = file.results()
        finished = done(known)
        ended = finished | {name: result for name, result in tried.items() if result.error is not None}
        cells = study.cells(ended)
        _check(cells, finished)
        file.plan([cell.name for cell in cells])
        for spent in study.spent(ended):
            shutil.rmtree(file.folder / spent, ignore_errors=True)
        left = [cell for cell in cells if cell.name not in finished and cell.name not in tried]
        if not left:
            return {cell.name: known[cell.name] for cell in cells}
        if progress is None:
            progress = _Progress(say, finished=len(cells) - len(left))
        progress.plan(cells, left, place.room(left))
        for result in place.ends(left, ended):
            file.keep(result)
            tried[result.name] = result
            progress.ended(next(cell for cell in left if cell.name == result.name), result)


def _check(cells: Sequence[Cell], finished: Finished) -> None:
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        raise ValueError(f"two cells have one name: {names}")
    for cell in cells:
        if cell.name in finished and finished[cell.name].parameters != cell.parameters:
            raise InputError(
                f"cell {cell.name} was made with other parameters ({finished[cell.name].parameters}, now {cell.parameters}): "
                "name another folder with --keep"
            )


class _Progress:
    """Says how far the study is, not more often than every few seconds, also into a pipe."""

    def __init__(self, say: Say, finished: int) -> None:
        self._say = say
        self._before = finished
        self._total = 0
        self._ended = 0
        self._time = TimeLeft(total=0.0)
        self._said_s = 0.0
        if finished:
            say(f"{finished} cells were finished before")

    def plan(self, cells: Sequence[Cell], left: Sequence[Cell], at_once: int | None) -> None:
        """The cells as they are known now, and those that are left; says what begins if that takes more than a few minutes."""
        expected_s = sum(cell.expected_s for cell in left)
        self._total = len(cells)
        self._time.total = self._time.done + expected_s
        if at_once is None:
            self._say(f"{len(left)} cells to do now, as many at a time as the cluster has room for")
        elif expected_s / at_once > SAY_FIRST_S:
            about = f"{expected_s / at_once / 60:.0f} minutes if each takes as long as expected"
            self._say(f"{len(left)} cells to do now, {at_once} at a time: {about}")

    def ended(self, cell: Cell, result: CellResult) -> None:
        self._ended += 1
        self._time.done += cell.expected_s
        if result.error is not None:
            self._say(f"{cell.name} failed: {result.error}")
        now_s = time.monotonic()
        last = self._before + self._ended >= self._total
        if cell.alone or last or now_s - self._said_s >= SAY_EVERY_S:
            self._said_s = now_s
            self._say(f"{cell.name} done: {self._before + self._ended} of {self._total} cells, {self._time.left()}")
