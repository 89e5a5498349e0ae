"""What placing work elsewhere is: a piece and what it needs, how it stands, how it ended, and the protocol of whatever starts it.

A piece is named by its key; what it does is its kind (`pieces.py`) and an order of bytes. Nothing is pickled by us, and no order names
code. Left out: the two ways to place pieces (`local_placement.py`, `on_ray/ray_placement.py`), and what players send home (`journal/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["player", "rank", "cell", "echo"]
"""player: plays for the head. rank: one of a learner that is spread. cell: of a study. echo: answers what it was asked, for trying out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What one piece takes of its node."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gib: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPiece:
    """One thing that runs elsewhere."""

    key: str
    """Unique among those that run."""
    kind: Kind
    order: bytes
    """What it is told, mostly JSON; its kind knows the form."""
    needs: Needs = Needs()


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceEnd:
    """How a piece ended: with an answer, or else with an error."""

    key: str
    answer: bytes | None = None
    error: str | None = None
    """In one line."""
    lost: bool = False
    """Its process or its node died: nobody knows how far it came. It may be started again, under the same key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceStanding:
    """How a piece that has not ended stands."""

    key: str
    state: Literal["waiting", "running"]
    where: str = ""
    """The node that it runs on."""
    why: str = ""
    """Why it waits ('asks for 1 GPU; 0 of 2 nodes have one'), or what it last said."""


class Placement(Protocol):
    """Starts pieces and tells how they end. Every wait has a limit, and no piece is started again unless the caller does it."""

    def start(self, piece: ClusterPiece) -> None:
        """Start a piece as soon as there is room for it. Raises `InputError` if one with that key has not ended, or its kind is unknown."""

    def ended(self, timeout_s: float) -> list[PieceEnd]:
        """Those that ended since the last call, each once; waits at most so long for the first."""

    def standing(self) -> list[PieceStanding]:
        """Those that have not ended, in the order in which they were started."""

    def stop(self, key: str, grace_s: float) -> None:
        """Ask a piece to end, and kill it after `grace_s`. Does not wait; its end comes by `ended`. An unknown key is left alone."""

    def close(self) -> None:
        """End all pieces. No process is left behind."""
