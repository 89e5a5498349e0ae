"""What `perdure status` and the page say of the cluster of a home: whether it answers, and how each player elsewhere stands.

Read from what the processes wrote of themselves (`memory/processes.py`). Loads no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perdure.agent.processes.process_names import CLUSTER, JOURNAL, PLAYER_PREFIX
from perdure.memory.json_value import Document
from perdure.memory.processes import Process


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterReport:
    """The cluster of a running daemon."""

    state: str
    """starting, serving, or waiting: for the cluster, or for room for some player."""
    detail: str | None
    journal: str | None
    """What the journal says of itself; None if it has not begun."""
    pieces: Sequence[Process]
    """The players elsewhere, by name: running or waiting, and where or why."""

    def as_json(self) -> Document:
        pieces = [{"name": one.name, "state": one.state, "detail": one.detail} for one in self.pieces]
        return {"state": self.state, "detail": self.detail, "journal": self.journal, "pieces": pieces}

    def line(self) -> str:
        """All of it in one line."""
        return f"{self.state}: {self.detail}" if self.detail else self.state


def is_piece(process: Process) -> bool:
    """Whether what is known of a process is about a player elsewhere."""
    return process.name.startswith(PLAYER_PREFIX)


def cluster_report(known: Mapping[str, Process]) -> ClusterReport | None:
    """Of all processes by name; None if there is no cluster."""
    own = known.get(CLUSTER)
    if own is None:
        return None
    journal = known.get(JOURNAL)
    pieces = [one for one in known.values() if is_piece(one)]
    return ClusterReport(
        state=own.state,
        detail=own.detail,
        journal=None if journal is None else f"{journal.state}: {journal.detail}" if journal.detail else journal.state,
        pieces=sorted(pieces, key=lambda one: (len(one.name), one.name)),
    )
