"""The cells of a study on this machine: as many beside each other as it has room for, then those that take the whole machine, in turn."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from perdure.agent.control_groups import memory_limit_bytes, usable_cores
from perdure.agent.studies.cell_processes import Say, do, in_processes
from perdure.agent.studies.cells import Cell, CellResult, Finished

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCells:
    """A `CellPlace`: this machine."""

    folder: Path
    """Of the study."""
    say: Say
    at_once: int | None = None
    """How many cells may run beside each other; None for as many as the machine has room for."""

    def room(self, left: Sequence[Cell]) -> int:
        beside = [cell for cell in left if not cell.alone]
        return self.at_once or room_here(beside) if beside else 1

    def ends(self, left: Sequence[Cell], ended: Finished) -> Iterator[CellResult]:
        """All that can run beside each other; if there are none, one of the others, which may lead to more."""
        beside = [cell for cell in left if not cell.alone]
        if not beside:
            yield self._one(left[0])
        elif self.room(left) > 1:
            yield from in_processes(beside, self.folder, min(self.room(left), len(beside)))
        else:
            yield from map(self._one, beside)

    def _one(self, cell: Cell) -> CellResult:
        if cell.own_process:
            (result,) = in_processes([cell], self.folder, 1)
            return result
        return do(cell, self.folder, self.say)


def room_here(cells: Sequence[Cell]) -> int:
    """How many of these cells fit on this machine at once, each with the cores and the memory of the largest one."""
    cores = usable_cores()
    memory_gib = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), memory_limit_bytes() or inf) / GIB
    most_cores = max((cell.cores for cell in cells), default=1)
    most_gib = max((cell.memory_gib for cell in cells), default=1.0)
    return max(1, min(cores // most_cores, int(memory_gib // most_gib)))
