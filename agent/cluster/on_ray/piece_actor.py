"""The actor that holds one piece on a node of Ray: it runs the piece in a process of its own, and answers for it.

Ray finds this class by its name in the Perdure of the node, so nothing of ours is pickled; only texts, numbers and bytes pass. The piece
has its own process, as with `../local_placement.py`, so that it never runs inside of a worker of Ray. Left out: the caller
(`ray_placement.py`). This module does not import Ray.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any, cast

from perdure.agent.cluster.node_versions import versions_here
from perdure.agent.cluster.piece_process import PieceProcess
from perdure.agent.cluster.placement import ClusterPiece, Kind, Needs

NEWS_S = 10.0
"""How long a question for news waits for some."""


class PieceActor:
    """One piece, and what the head may ask of it. Each question may be repeated."""

    program = "perdure.agent.cluster.piece_program"
    """The module that the piece's process runs."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._process: PieceProcess | None = None
        self._news = 0

    def begin(self, key: str, kind: str, order: bytes, cpus: float) -> None:
        """Start the piece, unless it was started."""
        with self._changed:
            if self._process is None:
                piece = ClusterPiece(key=key, kind=cast(Kind, kind), order=order, needs=Needs(cpus=cpus))
                self._process = PieceProcess(piece, self._on_change, program=self.program)

    def node(self) -> dict[str, Any]:
        """This node's name and versions."""
        return {"where": os.uname().nodename, "versions": versions_here()}

    def news(self, seen: int) -> dict[str, Any]:
        """What is new since the news of this number; waits some seconds for any."""
        until_s = time.monotonic() + NEWS_S
        with self._changed:
            while self._process is not None and self._news == seen and self._process.end is None and time.monotonic() < until_s:
                self._changed.wait(until_s - time.monotonic())
            if self._process is None:
                return {"seen": self._news, "said": "", "end": None}
            end = self._process.end
            ended = end and {"answer": end.answer, "error": end.error, "lost": end.lost}
            return {"seen": self._news, "said": self._process.said, "end": ended}

    def stop(self, grace_s: float) -> None:
        """Ask the piece to end, and kill it after `grace_s`."""
        with self._changed:
            if self._process is not None:
                self._process.stop(grace_s)

    def _on_change(self) -> None:
        with self._changed:
            self._news += 1
            self._changed.notify_all()
