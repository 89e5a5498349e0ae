"""The tree of versions as lanes beside a list, newest first: each is a point, with a line down to the version that it was made from.

Geometry alone: which lanes pass a row, and where its point stands. The list names the parent of each version in words too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_LANES = 8
"""Further ones lie on the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRow:
    """One version."""

    name: str
    lane: int
    from_above: bool
    """Whether a version above was made from it."""
    through: tuple[int, ...]
    """The lanes that pass it from above to below."""
    down: int | None
    """The lane in which its line goes on to its parent; None if it has none."""


def version_tree(versions: Sequence[tuple[str, str | None]]) -> list[TreeRow]:
    """Rows for these versions, each with its parent, newest first. A parent that is not among them is looked for below the last row."""
    waiting: list[str | None] = []
    """The parent to which each lane leads."""
    rows = []
    for name, parent in versions:
        above = name in waiting
        lane = waiting.index(name) if above else _free(waiting)
        if above:
            waiting[lane] = None
        through = tuple(n for n, one in enumerate(waiting) if one is not None)
        down = None
        if parent is not None:
            down = waiting.index(parent) if parent in waiting else lane
            if down == lane:
                waiting.extend([None] * (lane + 1 - len(waiting)))
                waiting[lane] = parent
        rows.append(
            TreeRow(
                name=name,
                lane=_bounded(lane),
                from_above=above,
                through=tuple(dict.fromkeys(map(_bounded, through))),
                down=None if down is None else _bounded(down),
            )
        )
    return rows


def _free(waiting: Sequence[str | None]) -> int:
    return waiting.index(None) if None in waiting else len(waiting)


def _bounded(lane: int) -> int:
    return min(lane, MOST_LANES - 1)
