"""Placements for tests, beside the real ones: pieces are done in this process, and die when the test says so. And a study run on one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from perdure.agent.cluster.pieces import run_piece
from perdure.agent.cluster.placement import ClusterPiece, PieceEnd, PieceStanding, Placement
from perdure.agent.studies.catalogue import StudySettings
from perdure.agent.studies.cells import CellResult, Study
from perdure.agent.studies.elsewhere.cell_order import asked
from perdure.agent.studies.elsewhere.cluster_cells import GIVE_UP_S, ClusterCells
from perdure.agent.studies.local_cells import LocalCells
from perdure.agent.studies.run_cells import run_study
from perdure.agent.studies.study_file import open_study
from perdure.memory.errors import PerdureError, Unavailable

SETTINGS = StudySettings(small=True, seeds=1)
NAME = "mode-seeking"

Ends = Callable[[ClusterPiece, int], Sequence[PieceEnd] | None]
"""How the n-th start of a piece (from 1) ends; None to do it."""


def do_it(piece: ClusterPiece, start: int) -> None:
    """Every piece is done."""


@dataclass(slots=True)
class InThisProcess:
    """Does each piece when its end is asked for."""

    how: Ends = do_it
    starts: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    _open: dict[str, ClusterPiece] = field(default_factory=dict)

    def start(self, piece: ClusterPiece) -> None:
        assert piece.key not in self._open
        self._open[piece.key] = piece
        self.starts.append(piece.key)

    def ended(self, timeout_s: float) -> list[PieceEnd]:
        if not self._open:
            return []
        piece = self._open.pop(next(iter(self._open)))
        scripted = self.how(piece, self.starts.count(piece.key))
        if scripted is not None:
            return list(scripted)
        try:
            return [PieceEnd(key=piece.key, answer=run_piece(piece.kind, piece.order, lambda: False, self.said.append))]
        except PerdureError as error:
            return [PieceEnd(key=piece.key, error=str(error))]

    def standing(self) -> list[PieceStanding]:
        return [PieceStanding(key=key, state="running") for key in self._open]

    def stop(self, key: str, grace_s: float) -> None:
        self.stopped.append(key)
        self._open.pop(key, None)

    def close(self) -> None:
        self._open.clear()


class OftenSilent(InThisProcess):
    """Does not say how its pieces stand, every second time."""

    asked = 0

    def standing(self) -> list[PieceStanding]:
        self.asked += 1
        if self.asked % 2 == 0:
            raise Unavailable("asking has taken more than 10 s")
        return InThisProcess.standing(self)


class NoRoom(InThisProcess):
    """No piece ever finds room."""

    def ended(self, timeout_s: float) -> list[PieceEnd]:
        return []

    def standing(self) -> list[PieceStanding]:
        return [PieceStanding(key=key, state="waiting", why="asks for 1 GPU; 0 of 2 nodes have one") for key in self._open]


def run(
    study: Study,
    folder: Path,
    placement: Placement,
    said: list[str] | None = None,
    name: str = NAME,
    give_up_s: float = GIVE_UP_S,
    lost: Callable[[], str | None] = lambda: None,
) -> dict[str, CellResult]:
    say = (said if said is not None else []).append
    settings = SETTINGS if name == NAME else StudySettings()
    with open_study(folder) as file:
        here = LocalCells(folder=file.folder, say=say)
        place = ClusterCells(placement=placement, study=study, asked=asked(name, settings), here=here, lost=lost, give_up_s=give_up_s)
        return run_study(study, file, say, place)
