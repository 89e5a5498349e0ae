"""What was kept: every version in every environment, and on every skill of the capability panel, with the pairs behind the numbers.

A cell has the scores of held-out seeds that gates drew, on either side of their pairs, and beside them those of the dev seeds. Intervals
are for a fixed number of seeds; the gate's own, which hold at any time, are with its verdict. Left out: live play (`learning_curves.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from perdure.agent.show.short_names import short_names
from perdure.learners.gate.intervals import interval_of_mean
from perdure.learners.panel.panel_limits import limit_of
from perdure.memory.environments import anchor_of, list_environments
from perdure.memory.gates import get_gate
from perdure.memory.json_value import Document, iso_utc, to_json
from perdure.memory.records import Role, Version
from perdure.memory.store import Store
from perdure.memory.versions import INITIAL, SERVED, list_versions

Which = Literal["served", "all"]
ALSO_TRAINED = """
    SELECT 1 FROM pair t WHERE t.gate = p.gate AND t.environment = p.environment AND t.role = 'trained' AND t.draw = p.draw
"""
"""The pair of the same draw with the serving version, if there is one."""


def retention_document(store: Store, *, which: Which = "served", limit: int = 40) -> Document:
    """The newest `limit` versions, oldest first, and the first one; those that serve or served, or all."""
    shown = _shown(list_versions(store), which, limit)
    names = [version.name for version in shown]
    environments = list_environments(store)
    anchors = {row.name: anchor_of(store, row.name) for row in environments}
    short = short_names(list(anchors))
    panel = _panel(store, names)
    return {
        "versions": [
            {"name": one.name, "state": one.state, "parent": one.parent, "created": iso_utc(one.created), "targets": list(one.targets)}
            for one in shown
        ],
        "environments": [
            {
                "environment": row.name,
                "short": short[row.name],
                "critical": row.critical,
                "retired": row.retired is not None,
                "anchor": anchors[row.name],
            }
            for row in environments
        ],
        "cells": _cells(store, names, anchors),
        "skills": [
            {"skill": skill, "measure": measure, "limit": limit_of(skill, measure)}
            for skill, measure in dict.fromkeys((row["skill"], row["measure"]) for row in panel)
        ],
        "panel": panel,
    }


def gate_pairs(store: Store, gate: int, *, environment: str | None = None, role: Role | None = None, limit: int = 1000) -> list[Document]:
    """The pairs of a gate, by environment and draw. `counts` is false of those from before the environment changed.

    Raises `UnknownError` if there is no such gate.
    """
    judged = get_gate(store, gate)
    conditions = "".join(f" AND p.{column} = :{column}" for column, value in (("environment", environment), ("role", role)) if value)
    rows = store.rows(
        f"""
        SELECT p.*, p.gate >= e.first_gate AS counts FROM pair p JOIN environment e ON e.name = p.environment
        WHERE p.gate = :gate {conditions} ORDER BY p.environment, p.role, p.draw LIMIT :limit
        """,
        {"gate": gate, "environment": environment, "role": role, "limit": limit},
    )
    return [
        {
            "gate": gate,
            "environment": row["environment"],
            "role": row["role"],
            "draw": row["draw"],
            "seed": row["seed"],
            "reference": row["reference"],
            "candidate": judged.candidate,
            "reference_score": row["reference_score"],
            "candidate_score": row["candidate_score"],
            "difference": row["difference"],
            "counts": bool(row["counts"]),
        }
        for row in rows
    ]


def _shown(versions: Sequence[Version], which: Which, limit: int) -> list[Version]:
    """From newest first to oldest first."""
    kept = [one for one in versions if which == "all" or one.state in SERVED]
    newest = kept[: max(limit, 1)]
    first = [one for one in kept if one.name == INITIAL and one not in newest]
    return [*first, *reversed(newest)]


def _cells(store: Store, names: Sequence[str], anchors: Mapping[str, str | None]) -> list[Document]:
    scores, dev, gates = _gate_scores(store, names), _dev_scores(store, names), _gates(store, names)
    cells = []
    for version in names:
        for environment, anchor in anchors.items():
            key = (version, environment)
            if key not in scores and key not in dev and key not in gates:
                continue
            n, mean = scores.get(key, (0, None))
            low, high = (None, None) if mean is None else interval_of_mean(mean, n)
            cells.append(
                {
                    "version": version,
                    "environment": environment,
                    "score": mean,
                    "low": low,
                    "high": high,
                    "n": n,
                    "is_anchor": version == anchor,
                    "dev": dev.get(key),
                    "gates": gates.get(key, []),
                }
            )
    return cells


def _gate_scores(store: Store, names: Sequence[str]) -> dict[tuple[str, str], tuple[int, float]]:
    """Number and mean of the scores on the seeds of gates, by version and environment.

    A draw on which a candidate is compared with two references has two pairs, and counts once for the candidate; so it does for a reference
    that it is compared with in both roles.
    """
    rows = store.rows(
        f"""
        WITH judged AS MATERIALIZED (SELECT g.id, g.candidate FROM json_each(:names) v JOIN gate g ON g.candidate = v.value),
        side AS (
            SELECT j.candidate AS version, p.environment, count(p.candidate_score) AS n, total(p.candidate_score) AS total
            FROM judged j CROSS JOIN pair p ON p.gate = j.id JOIN environment e ON e.name = p.environment
            WHERE p.gate >= e.first_gate AND (p.role = 'trained' OR NOT EXISTS ({ALSO_TRAINED}))
            GROUP BY j.candidate, p.environment
            UNION ALL
            SELECT p.reference, p.environment, count(p.reference_score), total(p.reference_score)
            FROM pair p NOT INDEXED JOIN environment e ON e.name = p.environment
            WHERE p.reference IN (SELECT value FROM json_each(:names)) AND p.gate >= e.first_gate
              AND (p.role = 'trained' OR NOT EXISTS ({ALSO_TRAINED} AND t.reference = p.reference))
            GROUP BY p.reference, p.environment
        )
        SELECT version, environment, sum(n) AS n, sum(total) / sum(n) AS mean FROM side GROUP BY version, environment HAVING sum(n) > 0
        """,
        {"names": to_json(list(names))},
    )
    return {(row["version"], row["environment"]): (row["n"], row["mean"]) for row in rows}


def _dev_scores(store: Store, names: Sequence[str]) -> dict[tuple[str, str], Document]:
    """Of the dev seeds: those at the temperature of which there are most."""
    rows = store.rows(
        """
        SELECT version, environment, temperature, seeds, scored, total FROM dev_score
        WHERE version IN (SELECT value FROM json_each(?)) AND scored > 0 ORDER BY scored, temperature
        """,
        (to_json(list(names)),),
    )
    return {
        (row["version"], row["environment"]): {
            "score": row["total"] / row["scored"],
            "seeds": row["scored"],
            "temperature": row["temperature"],
        }
        for row in rows
    }


def _gates(store: Store, names: Sequence[str]) -> dict[tuple[str, str], list[Document]]:
    """The gates in which each version was the candidate, by version and environment."""
    rows = store.rows(
        """
        WITH judged AS MATERIALIZED (SELECT g.id, g.candidate, g.verdict FROM json_each(:names) v JOIN gate g ON g.candidate = v.value)
        SELECT j.id AS gate, j.candidate, j.verdict, p.environment, p.role, p.reference, count(p.difference) AS pairs,
               avg(p.difference) AS difference
        FROM judged j CROSS JOIN pair p ON p.gate = j.id JOIN environment e ON e.name = p.environment
        WHERE p.gate >= e.first_gate GROUP BY j.id, p.environment, p.role, p.reference ORDER BY j.id
        """,
        {"names": to_json(list(names))},
    )
    found: dict[tuple[str, str], list[Document]] = {}
    for row in rows:
        found.setdefault((row["candidate"], row["environment"]), []).append(_gate(row))
    return found


def _gate(row: Any) -> Document:
    low, high = (None, None) if not row["pairs"] else difference_interval(row["difference"], row["pairs"])
    return {
        "gate": row["gate"],
        "role": row["role"],
        "reference": row["reference"],
        "pairs": row["pairs"],
        "difference": row["difference"],
        "low": low,
        "high": high,
        "verdict": row["verdict"],
    }


def difference_interval(mean: float, n: int) -> tuple[float, float]:
    """The means in [-1, 1] that `n` differences with this mean do not contradict, at 95 %, for a fixed `n`."""
    low, high = interval_of_mean((1 + mean) / 2, n)
    return 2 * low - 1, 2 * high - 1


def _panel(store: Store, names: Sequence[str]) -> list[Document]:
    """Mean scores of the skills, and their change against the base model on the items that both have with the same text and numerics."""
    rows = store.rows(
        """
        SELECT p.version, p.skill, p.measure, count(p.score) AS items, avg(p.score) AS score,
               avg(CASE WHEN p.score IS NOT NULL THEN b.score END) AS base, avg(p.score - b.score) AS change
        FROM json_each(:names) v JOIN panel_score p ON p.version = v.value
        LEFT JOIN panel_score b ON b.version = :base AND b.skill = p.skill AND b.item = p.item AND b.measure = p.measure
             AND b.content = p.content AND b.numerics = p.numerics
        WHERE p.measure IN ('choice', 'cross_entropy')
        GROUP BY v.key, p.skill, p.measure HAVING count(p.score) > 0 ORDER BY v.key, p.skill, p.measure
        """,
        {"names": to_json(list(names)), "base": INITIAL},
    )
    return [
        {
            "version": row["version"],
            "skill": row["skill"],
            "measure": row["measure"],
            "score": row["score"],
            "items": row["items"],
            "base": row["base"],
            "change": row["change"],
            "worse": row["change"] is not None and _loss(row) > limit_of(row["skill"], row["measure"]),
        }
        for row in rows
    ]


def _loss(row: Any) -> float:
    loss: float = row["change"] if row["measure"] == "cross_entropy" else -row["change"]
    return loss
