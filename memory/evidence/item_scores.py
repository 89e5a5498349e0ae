"""Scores of versions on the items of the capability panel, kept so that nothing is scored twice.

A score belongs to an item as it was: `content` is a hash of it, and a score of an older content is replaced. Left out: the items
(`learners/panel/panel_items.py`), and what the scores say (`learners/panel/panel_limits.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from perdure.memory import faults, leases
from perdure.memory.contracts.panel_results import Measure
from perdure.memory.records import Lease
from perdure.memory.store import Store

ItemMeasure = tuple[str, str, Measure]
"""A skill, an item of it, and how the item is scored."""


@dataclass(frozen=True, slots=True)
class ItemScore:
    """What a version scored on one item."""

    score: float | None
    """None if the item does not fit into the context of the model."""
    content: str
    """Of the item when it was scored."""
    numerics: str
    """Of the engine that scored it (`Engine.numerics`)."""


def panel_scores(store: Store, version: str) -> dict[ItemMeasure, ItemScore]:
    """All that are kept of a version."""
    rows = store.rows("SELECT skill, item, measure, score, content, numerics FROM panel_score WHERE version = ?", (version,))
    return {(row["skill"], row["item"], row["measure"]): ItemScore(row["score"], row["content"], row["numerics"]) for row in rows}


def keep_panel_scores(store: Store, lease: Lease, version: str, scores: Iterable[tuple[ItemMeasure, ItemScore]]) -> None:
    """Keep these scores of a version, in place of those that were kept of the same items."""
    with store.write() as conn:
        leases.check(store, "job", lease)
        conn.executemany(
            """
            INSERT INTO panel_score (version, skill, item, measure, score, content, numerics) VALUES (?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (version, skill, item, measure) DO UPDATE SET
                score = excluded.score, content = excluded.content, numerics = excluded.numerics
            """,
            [(version, skill, item, measure, kept.score, kept.content, kept.numerics) for (skill, item, measure), kept in scores],
        )
        faults.point("mid-panel")
