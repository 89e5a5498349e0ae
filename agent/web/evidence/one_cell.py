"""One version in one environment: the gates behind its score, on either side of their pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perdure.agent.web.views.retention_matrix import difference_interval
from perdure.learners.gate.intervals import interval_of_mean
from perdure.memory.environments import anchor_of, require
from perdure.memory.records import Decision, Role
from perdure.memory.store import Store
from perdure.memory.versions import get_version

MOST_GATES = 100

Interval = tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CellGate:
    """What one gate showed of the version in the environment."""

    gate: int
    verdict: Decision | None
    is_candidate: bool
    other: str
    """The version on the other side of the pairs."""
    role: Role
    pairs: int
    """Without void ones."""
    score: float | None
    other_score: float | None
    difference: float | None
    """Of the candidate from the reference."""
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEvidence:
    """The score of a version in an environment, and where it comes from."""

    version: str
    environment: str
    anchor: str | None
    score: float | None
    interval: Interval
    seeds: int
    dev_score: float | None
    dev_seeds: int
    gates: Sequence[CellGate]
    """Newest first, `MOST_GATES` of them."""
    gates_in_all: int


def cell_evidence(store: Store, version: str, environment: str) -> CellEvidence:
    """Raises `UnknownError` for a version or an environment that the home does not have."""
    get_version(store, version)
    require(store, environment)
    names = {"version": version, "environment": environment}
    rows = store.rows(
        """
        WITH counted AS MATERIALIZED (SELECT first_gate FROM environment WHERE name = :environment),
        judged AS MATERIALIZED (SELECT id FROM gate WHERE candidate = :version),
        behind AS MATERIALIZED (
            SELECT id, 1 AS is_candidate FROM judged
            UNION ALL
            SELECT DISTINCT gate, 0 FROM pair
            WHERE environment = :environment AND role IN ('earlier', 'trained') AND reference = :version
        )
        SELECT b.id, b.is_candidate, g.verdict, CASE b.is_candidate WHEN 1 THEN p.reference ELSE g.candidate END AS other, p.role,
               count(p.difference) AS pairs, avg(p.candidate_score) AS candidate_score, avg(p.reference_score) AS reference_score,
               avg(p.difference) AS difference
        FROM behind b JOIN gate g ON g.id = b.id CROSS JOIN pair p ON p.gate = b.id AND p.environment = :environment
        WHERE b.id >= (SELECT first_gate FROM counted) AND (b.is_candidate OR p.reference = :version)
        GROUP BY b.id, b.is_candidate, p.role, p.reference ORDER BY b.id DESC
        """,
        names,
    )
    [total] = store.rows(
        """
        WITH side AS (
            SELECT p.gate, p.seed, p.candidate_score AS score
            FROM gate g CROSS JOIN pair p ON p.gate = g.id AND p.environment = :environment
            WHERE g.candidate = :version
            UNION
            SELECT gate, seed, reference_score FROM pair
            WHERE environment = :environment AND role IN ('earlier', 'trained') AND reference = :version
        )
        SELECT count(*) AS n, avg(score) AS mean FROM side
        WHERE score IS NOT NULL AND gate >= (SELECT first_gate FROM environment WHERE name = :environment)
        """,
        names,
    )
    dev = store.rows(
        """
        SELECT scored, total FROM dev_score WHERE version = :version AND environment = :environment AND scored > 0
        ORDER BY scored DESC, temperature LIMIT 1
        """,
        names,
    )
    return CellEvidence(
        version=version,
        environment=environment,
        anchor=anchor_of(store, environment),
        score=total["mean"],
        interval=None if total["mean"] is None else interval_of_mean(total["mean"], total["n"]),
        seeds=total["n"],
        dev_score=dev[0]["total"] / dev[0]["scored"] if dev else None,
        dev_seeds=dev[0]["scored"] if dev else 0,
        gates=[_gate(row) for row in rows[:MOST_GATES]],
        gates_in_all=len(rows),
    )


def _gate(row: Any) -> CellGate:
    own, other = ("candidate_score", "reference_score") if row["is_candidate"] else ("reference_score", "candidate_score")
    return CellGate(
        gate=row["id"],
        verdict=row["verdict"],
        is_candidate=bool(row["is_candidate"]),
        other=row["other"],
        role=row["role"],
        pairs=row["pairs"],
        score=row[own],
        other_score=row[other],
        difference=row["difference"],
        interval=None if not row["pairs"] else difference_interval(row["difference"], row["pairs"]),
    )
