"""Versions page by page, and what each gate said of them: few columns of many rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perdure.memory.errors import UnknownError
from perdure.memory.json_value import to_json
from perdure.memory.records import Decision, Version
from perdure.memory.store import Store
from perdure.memory.versions import list_versions


@dataclass(frozen=True, slots=True, kw_only=True)
class LastGate:
    """The newest gate of a version."""

    gate: int
    verdict: Decision | None
    """None as long as it runs."""
    reason: str | None


def page_of_versions(store: Store, limit: int, before: str | None) -> tuple[list[Version], str | None]:
    """The newest versions that are older than `before`, and the name after which the next page begins. Raises `UnknownError`."""
    every = list_versions(store)
    start = 0
    if before is not None:
        names = [one.name for one in every]
        if before not in names:
            raise UnknownError(f"no version {before!r}; `perdure version list` shows them")
        start = names.index(before) + 1
    shown = every[start : start + limit]
    return shown, shown[-1].name if len(every) > start + limit else None


def last_gates(store: Store, versions: Sequence[str]) -> dict[str, LastGate]:
    """Of those that were gated."""
    rows = store.rows(
        """
        SELECT candidate, max(id) AS id, verdict, reason FROM gate
        WHERE candidate IN (SELECT value FROM json_each(?)) GROUP BY candidate
        """,
        (to_json(list(versions)),),
    )
    return {row["candidate"]: LastGate(gate=row["id"], verdict=row["verdict"], reason=row["reason"]) for row in rows}


def made_from(store: Store, version: str) -> list[str]:
    """The versions whose parent it is, newest first."""
    return [row["name"] for row in store.rows("SELECT name FROM version WHERE parent = ? ORDER BY rowid DESC", (version,))]


def answers_to(store: Store, version: str, environment: str, seed: int) -> list[tuple[int, float]]:
    """The judged answers of a version to one held-out seed that are still in the store: episode and score, newest first."""
    rows = store.rows(
        """
        SELECT id, score FROM episode INDEXED BY episode_by_both
        WHERE environment = ? AND version = ? AND seed = ? AND purpose IN ('gate', 'probe') AND state = 'completed' AND seat = 0
        ORDER BY id DESC LIMIT 32
        """,
        (environment, version, seed),
    )
    return [(row["id"], row["score"]) for row in rows]
