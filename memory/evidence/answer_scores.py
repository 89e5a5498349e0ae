"""What versions scored on held-out seeds, answer by answer: in gates, on dev seeds and in probes.

In an environment that has changed only what was played since then counts. Seeds whose episodes were pruned have the scores of their pairs,
which stay. Left out: live play, which has other seeds, and the steps inside a learning job.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from perdure.memory.json_value import to_json
from perdure.memory.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerScore:
    """One answer of a version to a task, or the mean of several if only that is kept."""

    version: str
    environment: str
    seed: int
    temperature: float
    """At which it was sampled; 0 is greedy."""
    score: float
    """In [0, 1]."""


def answer_scores(store: Store, versions: Collection[str]) -> list[AnswerScore]:
    """All that is kept of these versions, in the order of play, pruned episodes last. Failed episodes have no score."""
    names = to_json(sorted(versions))
    played = store.rows(
        """
        SELECT p.version, p.environment, p.seed, p.temperature, p.score
        FROM json_each(?) v JOIN episode p ON p.version = v.value JOIN environment e ON e.name = p.environment
        WHERE p.purpose IN ('gate', 'probe') AND p.state = 'completed' AND p.seat = 0 AND p.started_at >= coalesce(e.changed_at, 0)
        ORDER BY p.id
        """,
        (names,),
    )
    paired = store.rows(
        """
        WITH closed AS MATERIALIZED (
            SELECT id, candidate, coalesce(json_extract(evidence, '$.temperature'), 0.0) AS temperature FROM gate WHERE verdict IS NOT NULL
        ), side AS (
            SELECT c.id, c.candidate AS version, p.environment, p.seed, c.temperature, p.candidate_score AS score
            FROM closed c JOIN pair p ON p.gate = c.id
            UNION
            SELECT c.id, p.reference, p.environment, p.seed, c.temperature, p.reference_score
            FROM closed c JOIN pair p ON p.gate = c.id
        )
        SELECT s.version, s.environment, s.seed, s.temperature, s.score
        FROM json_each(?) v JOIN side s ON s.version = v.value JOIN environment e ON e.name = s.environment
        WHERE s.score IS NOT NULL AND s.id >= e.first_gate
        ORDER BY s.id, s.environment, s.seed
        """,
        (names,),
    )
    found = [_score(row) for row in played]
    known = {(score.version, score.environment, score.seed, score.temperature) for score in found}
    pruned = [_score(row) for row in paired]
    return found + [score for score in pruned if (score.version, score.environment, score.seed, score.temperature) not in known]


def _score(row: Any) -> AnswerScore:
    return AnswerScore(
        version=row["version"], environment=row["environment"], seed=row["seed"], temperature=row["temperature"], score=row["score"]
    )
