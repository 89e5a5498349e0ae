"""Scores of versions on the first dev seeds of each environment, kept so that no gate plays the same ones again.

Left out: the dev seeds (`envs/seeds.py`), and how many are played (`learners/gate/reference_scores.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perdure.memory import leases
from perdure.memory.records import Lease
from perdure.memory.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownScores:
    """What is known of a version in one environment. The score of a seed is the mean of its answers."""

    seeds: int = 0
    """How many have been played."""
    scored: int = 0
    """How many of them got a score."""
    total: float = 0.0
    """Of the scores."""

    def __add__(self, other: KnownScores) -> KnownScores:
        return KnownScores(seeds=self.seeds + other.seeds, scored=self.scored + other.scored, total=self.total + other.total)

    @property
    def mean(self) -> float | None:
        """None if half of the seeds or more got no score: then the environment failed too often to tell."""
        return self.total / self.scored if 2 * self.scored > self.seeds else None


def known_dev_scores(store: Store, temperature: float) -> dict[tuple[str, str], KnownScores]:
    """All that are kept of answers at this temperature, by environment and version."""
    rows = store.rows("SELECT * FROM dev_score WHERE temperature = ?", (temperature,))
    return {(row["environment"], row["version"]): KnownScores(seeds=row["seeds"], scored=row["scored"], total=row["total"]) for row in rows}


def keep_dev_scores(store: Store, lease: Lease, temperature: float, scores: Mapping[tuple[str, str], KnownScores]) -> None:
    """Keep these scores, by environment and version, in place of those that were kept."""
    with store.write() as conn:
        leases.check(store, "job", lease)
        for (environment, version), known in scores.items():
            conn.execute(
                """
                INSERT INTO dev_score (version, environment, temperature, seeds, scored, total) VALUES (?, ?, ?, ?, ?, ?)
                ON CONFLICT (version, environment, temperature) DO UPDATE
                SET seeds = excluded.seeds, scored = excluded.scored, total = excluded.total
                """,
                (version, environment, temperature, known.seeds, known.scored, known.total),
            )
