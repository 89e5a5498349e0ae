"""Placements for tests, beside the real ones: pieces are done in this process, and die when the test says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from perdure.agent.cluster.pieces import run_piece
from perdure.agent.cluster.placement import ClusterPiece, PieceEnd, PieceStanding
from perdure.memory.errors import PerdureError

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


class NoRoom(InThisProcess):
    """No piece ever finds room."""

    def ended(self, timeout_s: float) -> list[PieceEnd]:
        return []

    def standing(self) -> list[PieceStanding]:
        return [PieceStanding(key=key, state="waiting", why="asks for 1 GPU; 0 of 2 nodes have one") for key in self._open]
