"""What a study consists of: cells, each of which is done once and kept.

A study is a function from the cells that have ended to all the cells that are known so far. A grid names all its cells at once; a study
whose later parts depend on earlier ones (which versions a life made, which rate a pilot chose) names more as results come in.
`run_cells.py` has them done at a place, which is this machine (`local_cells.py`) or a cluster (`elsewhere/`), and `study_file.py` keeps
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from perdure.memory.json_value import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What a cell has at hand while it is done."""

    folder: Path
    """Of the study. A cell that takes long keeps its unfinished work there, under a name of its own, and continues with it."""
    say: Callable[[str], None]


def silence(line: str) -> None:
    """For work whose progress is told otherwise."""


CellWork = Callable[[Document, Desk], Iterable[Document]]
"""From a cell's parameters to its rows. A function of a module, so that another process can run it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFolders:
    """Folders in the study's, by name, that a cell has in common with others. They travel with a cell that is done on another machine."""

    needs: tuple[str, ...] = ()
    """Of earlier cells."""
    leaves: tuple[str, ...] = ()
    """For later cells."""


NO_FOLDERS = CellFolders()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One part of a study."""

    name: str
    """Unique in its study; says what the part is."""
    parameters: Document
    """All that its rows depend on, apart from the program itself."""
    work: CellWork
    expected_s: float = 1.0
    """Only for the time left."""
    alone: bool = False
    """Whether it uses the whole machine, so that nothing else runs beside it."""
    cores: int = 1
    """That it keeps busy; torch has as many threads in it."""
    memory_gib: float = 1.0
    """That it takes at its peak, about."""
    gpus: int = 0
    """That it computes on."""
    folders: CellFolders = NO_FOLDERS
    own_process: bool = False
    """Whether it is done in a process of its own even if it is alone: what it holds of a GPU goes with the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """A cell that is done, or has failed."""

    name: str
    parameters: Document
    made_by: str
    """The commit of the program, or its version outside of a clone."""
    seconds: float
    rows: tuple[Document, ...] = ()
    error: str | None = None
    """None if it is done."""


Finished = Mapping[str, CellResult]
"""The cells that have ended, by name: those that are done, and those that have failed in this run, which have an error and no rows."""


def done(finished: Finished) -> dict[str, CellResult]:
    """Without those that have failed."""
    return {name: result for name, result in finished.items() if result.error is None}


def nothing_spent(finished: Finished) -> Iterable[str]:
    """Of studies whose cells leave nothing behind, or remove it themselves."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study under its conditions."""

    name: str
    cells: Callable[[Finished], Sequence[Cell]]
    """All cells known so far, in the order in which they are to be done."""
    spent: Callable[[Finished], Iterable[str]] = nothing_spent
    """Folders in the study's, by name, that no cell needs any more: they are removed."""


class CellPlace(Protocol):
    """Where the cells of a study are done."""

    def room(self, left: Sequence[Cell]) -> int | None:
        """How many of these are done at a time; None if that is not known before."""

    def ends(self, left: Sequence[Cell], ended: Finished) -> Iterator[CellResult]:
        """Do some or all of the cells that are left, at least one, and give each as it ends, done or failed. `ended` is what they follow
        from. Those that it does not give are asked for again, with whatever the others led to."""
