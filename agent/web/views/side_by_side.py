"""Two versions on the same seeds: where one is better, and both answers down to tokens and log-probs, with the first turn that differs.

Seeds are shared by gates between the two, by probes, and by the dev seeds of gates. Of several answers of a version to a seed at one
temperature all count in its score, and the newest is shown. Left out: the verdict (`agent/show/gate_table.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perdure.agent.show.home_documents import episode_document
from perdure.agent.web.views.retention_matrix import difference_interval
from perdure.memory.environments import require
from perdure.memory.errors import UnknownError
from perdure.memory.json_value import Document
from perdure.memory.store import Store
from perdure.memory.versions import get_version

JUDGED = "purpose IN ('gate', 'probe') AND state = 'completed' AND seat = 0"
"""The episodes that are compared: on held-out seeds, ended, of the seat that counts."""


def against(store: Store, a: str, b: str, *, environment: str | None = None, limit: int = 100, before: int | None = None) -> Document:
    """The seeds that both versions played, newest first; differences are a minus b. `before`: only those whose episode of `a` is older.

    Raises `UnknownError` for a version or an environment that the home does not have.
    """
    for name in (a, b):
        get_version(store, name)
    if environment is not None:
        require(store, environment)
    pairs = _pairs(store, a, b, environment)
    below = [pair for pair in pairs if before is None or pair["a_episode"] < before]
    return {
        "a": a,
        "b": b,
        "environments": [_summary(name, [p for p in pairs if p["environment"] == name]) for name in _environments(pairs)],
        "pairs": below[:limit],
        "next": below[limit - 1]["a_episode"] if len(below) > limit else None,
    }


def answers(store: Store, a_episode: int, b_episode: int) -> Document:
    """Two episodes turn by turn. Raises `UnknownError` if one of them is not there."""
    a, b = episode_document(store, a_episode), episode_document(store, b_episode)
    turns = []
    first: Document | None = None
    for n in range(max(len(a["turns"]), len(b["turns"]))):
        one, other = (side["turns"][n] if n < len(side["turns"]) else None for side in (a, b))
        difference = _difference(one, other)
        if difference is not None and first is None:
            first = {"turn": n, **difference}
        turns.append({"n": n, "same": difference is None, "a": one, "b": other})
    return {"a": a, "b": b, "first_difference": first, "turns": turns}


def same_seed(store: Store, a: str, b: str, environment: str, seed: int) -> Document:
    """The newest answers of two versions to one seed. Raises `UnknownError` if one of them never played it in a gate or a probe."""
    return answers(store, *(_newest(store, name, environment, seed) for name in (a, b)))


def _newest(store: Store, version: str, environment: str, seed: int) -> int:
    get_version(store, version)
    require(store, environment)
    rows = store.rows(
        f"""
        SELECT max(id) AS id FROM episode INDEXED BY episode_by_both
        WHERE environment = ? AND version = ? AND seed = ? AND {JUDGED}
        """,
        (environment, version, seed),
    )
    if rows[0]["id"] is None:
        raise UnknownError(f"{version} has no episode of {environment} on seed {seed} in a gate or a probe that is still in the store")
    return int(rows[0]["id"])


def _pairs(store: Store, a: str, b: str, environment: str | None) -> list[Document]:
    chosen = " AND environment = :environment" if environment is not None else ""
    rows = store.rows(
        f"""
        WITH mine AS MATERIALIZED (
            SELECT environment, seed, temperature, max(id) AS episode, avg(score) AS score FROM episode
            WHERE version = :a AND {JUDGED}{chosen} GROUP BY environment, seed, temperature
        ), theirs AS MATERIALIZED (
            SELECT environment, seed, temperature, max(id) AS episode, avg(score) AS score FROM episode
            WHERE version = :b AND {JUDGED}{chosen} GROUP BY environment, seed, temperature
        )
        SELECT m.environment, m.seed, m.temperature, m.episode AS a_episode, t.episode AS b_episode, m.score AS a_score,
               t.score AS b_score, m.score - t.score AS difference
        FROM mine m JOIN theirs t USING (environment, seed, temperature) ORDER BY m.episode DESC
        """,
        {"a": a, "b": b, "environment": environment},
    )
    return [dict(row) for row in rows]


def _environments(pairs: Sequence[Document]) -> list[str]:
    return sorted({pair["environment"] for pair in pairs})


def _summary(environment: str, pairs: Sequence[Document]) -> Document:
    n = len(pairs)
    difference = sum(pair["difference"] for pair in pairs) / n
    low, high = difference_interval(difference, n)
    return {
        "environment": environment,
        "seeds": n,
        "a": sum(pair["a_score"] for pair in pairs) / n,
        "b": sum(pair["b_score"] for pair in pairs) / n,
        "difference": difference,
        "low": low,
        "high": high,
        "a_better": sum(pair["difference"] > 0 for pair in pairs),
        "b_better": sum(pair["difference"] < 0 for pair in pairs),
    }


def _difference(a: Document | None, b: Document | None) -> Document | None:
    """What differs first in a turn; None if both saw and said the same."""
    if a is None or b is None:
        return {"token": None, "what": "length"}
    if a["observation"] != b["observation"]:
        return {"token": None, "what": "observation"}
    if a["action_ids"] != b["action_ids"]:
        return {"token": _first_unlike(a["action_ids"], b["action_ids"]), "what": "action"}
    return None


def _first_unlike(a: Sequence[Any], b: Sequence[Any]) -> int:
    return next((n for n, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))
