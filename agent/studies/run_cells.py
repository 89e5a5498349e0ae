"""Doing the cells of a study: those that are not finished, several at once if the machine has room, each kept as soon as it ends.

A cell that fails is marked with its error, and the rest goes on; the next run tries it again. A run that is killed loses only the cells
that were being done, and those that take long continue where they stopped if they kept their work in the study's folder.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path

from perdure.agent.bench.measure import TimeLeft
from perdure.agent.control_groups import memory_limit_bytes, usable_cores
from perdure.agent.studies.cell_processes import Say, do, in_processes
from perdure.agent.studies.cells import Cell, CellResult, Finished, Study, done
from perdure.agent.studies.study_file import StudyFile
from perdure.memory.errors import InputError

SAY_EVERY_S = 5.0
SAY_FIRST_S = 180.0
GIB = 2**30


def run_study(study: Study, file: StudyFile, say: Say, at_once: int | None = None) -> dict[str, CellResult]:
    """Do what is left of a study, and give the cells that it consists of: all are done, or have failed in this run.

    `at_once` is how many cells may run beside each other; by default as many as the machine has room for. Raises `InputError` if the file
    has a cell of the same name with other parameters.
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
        beside = [cell for cell in left if not cell.alone]
        at_a_time = at_once or room(beside)
        if progress is None:
            progress = _Progress(say, finished=len(cells) - len(left))
        progress.plan(cells, left, at_a_time if beside else 1)
        for result in _all_ends(beside, left, file.folder, say, at_a_time):
            file.keep(result)
            tried[result.name] = result
            progress.ended(next(cell for cell in left if cell.name == result.name), result)
            if not beside:
                break  # one that takes the whole machine may lead to more cells


def room(cells: Sequence[Cell]) -> int:
    """How many of these cells fit on this machine at once, each with the cores and the memory of the largest one."""
    cores = usable_cores()
    memory_gib = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), memory_limit_bytes() or inf) / GIB
    most_cores = max((cell.cores for cell in cells), default=1)
    most_gib = max((cell.memory_gib for cell in cells), default=1.0)
    return max(1, min(cores // most_cores, int(memory_gib // most_gib)))


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


def _all_ends(beside: Sequence[Cell], left: Sequence[Cell], folder: Path, say: Say, at_once: int) -> Iterator[CellResult]:
    """Do the cells that can run beside each other first, or, if there are none, the others in turn."""
    if beside and at_once > 1:
        yield from in_processes(beside, folder, min(at_once, len(beside)))
        return
    for cell in beside or left:
        if cell.own_process:
            yield from in_processes([cell], folder, 1)
        else:
            yield do(cell, folder, say)


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

    def plan(self, cells: Sequence[Cell], left: Sequence[Cell], at_once: int) -> None:
        """The cells as they are known now, and those that are left; says what begins if that takes more than a few minutes."""
        expected_s = sum(cell.expected_s for cell in left)
        self._total = len(cells)
        self._time.total = self._time.done + expected_s
        if expected_s / at_once > SAY_FIRST_S:
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
