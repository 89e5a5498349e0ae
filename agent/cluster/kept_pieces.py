"""Keeps a number of pieces placed: those that ended are started again, after a wait that grows. Knows no Ray and no store.

Each piece is one of the same kind under a name that stays, such as `player-1`. Left out: what places them (`placement.py`), and who
is told (`cluster_program.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from perdure.agent.cluster.placement import ClusterPiece, Kind, Needs, PieceEnd, Placement
from perdure.agent.supervision.children import Backoff

PieceState = Literal["running", "waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptState:
    """How one of them is."""

    name: str
    state: PieceState
    detail: str
    """Where it runs and what it says, or why it waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptDeath:
    """One that ended though it should run."""

    name: str
    message: str


class KeptPieces:
    """`names` are kept placed in `placement`: call `start_due` again and again, and `note` with every piece that ended."""

    def __init__(
        self,
        placement: Placement,
        kind: Kind,
        names: Sequence[str],
        needs: Needs,
        order: Callable[[str], bytes],
        now_s: Callable[[], float],
    ) -> None:
        """`order` gives the order of the piece of a name, anew for each start. `now_s` is a monotonic clock."""
        self._placement = placement
        self._kind: Kind = kind
        self._needs = needs
        self._order = order
        self._now_s = now_s
        self._backoffs = {name: Backoff() for name in names}
        self._started_s: dict[str, float] = {}
        """Of those that are placed, or wait for room."""
        self._last: dict[str, str] = {}
        """Why it ended last."""

    def start_due(self) -> None:
        """Start those that do not run and have waited long enough."""
        for name, backoff in self._backoffs.items():
            if name not in self._started_s and backoff.ready():
                self._placement.start(ClusterPiece(key=name, kind=self._kind, order=self._order(name), needs=self._needs))
                self._started_s[name] = self._now_s()

    def note(self, ends: Iterable[PieceEnd]) -> list[KeptDeath]:
        """Take the ends of pieces, those of others too. Gives the deaths of these."""
        return [self._died(end) for end in ends if end.key in self._started_s]

    def states(self) -> list[KeptState]:
        """How each of them is, in the order of their names."""
        standing = {one.key: one for one in self._placement.standing()}
        found = []
        for name in self._backoffs:
            one = standing.get(name)
            if one is not None and one.state == "running":
                found.append(KeptState(name=name, state="running", detail=f"on {one.where}" + (f": {one.why}" if one.why else "")))
            elif one is not None:
                found.append(KeptState(name=name, state="waiting", detail=one.why))
            else:
                found.append(KeptState(name=name, state="waiting", detail=f"{self._last.get(name, 'has not begun')}; it starts again soon"))
        return found

    def _died(self, end: PieceEnd) -> KeptDeath:
        lived_s = self._now_s() - self._started_s.pop(end.key)
        wait_s = self._backoffs[end.key].died(lived_s, unavailable=end.lost)
        why = end.error or "it ended by itself"
        self._last[end.key] = why
        return KeptDeath(name=end.key, message=f"{why}; it starts again in {wait_s:g} s")


def summary(states: Sequence[KeptState]) -> str:
    """All of them in one line: '2 of 3 run; player-3 waits: asks for 1 GPU; 0 of 2 nodes have one'."""
    running = sum(one.state == "running" for one in states)
    waiting: Mapping[str, list[str]] = _by_reason(states)
    parts = [f"{running} of {len(states)} run"]
    for why, names in waiting.items():
        who = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        parts.append(f"{who} {'waits' if len(names) == 1 else 'wait'}: {why}")
    return "; ".join(parts)


def _by_reason(states: Sequence[KeptState]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in states:
        if one.state == "waiting":
            found.setdefault(one.detail, []).append(one.name)
    return found
