"""How an environment went: episodes, successes and tokens, of live play before a job and of the job itself."""

from __future__ import annotations

from dataclasses import dataclass

from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayRecord:
    """Some completed episodes of one environment."""

    groups: int
    episodes: int
    successes: int
    tokens: int
    """Of whole conversations: prompts, answers and all that was said between them."""

    def __add__(self, other: PlayRecord) -> PlayRecord:
        return PlayRecord(
            groups=self.groups + other.groups,
            episodes=self.episodes + other.episodes,
            successes=self.successes + other.successes,
            tokens=self.tokens + other.tokens,
        )


NOTHING_PLAYED = PlayRecord(groups=0, episodes=0, successes=0, tokens=0)

_TOTALS = """
count(DISTINCT "group") AS groups, count(*) AS episodes, sum(success) AS successes,
sum(coalesce(
    (SELECT t.shared + (length(t.prompt_ids) + length(t.action_ids)) / 4 FROM turn t WHERE t.episode = played.id ORDER BY t.n DESC LIMIT 1),
    (SELECT s.tokens FROM shelved s WHERE s.episode = played.id)
)) AS tokens
"""


def record_before_job(store: Store, environment: str, job: int, most: int) -> PlayRecord:
    """The newest `most` live episodes of an environment that are older than the job's first episode, under any version."""
    [row] = store.rows(
        f"""
        SELECT {_TOTALS} FROM (
            SELECT id, "group", success FROM episode
            WHERE environment = ? AND purpose = 'live' AND state = 'completed' AND seat = 0 AND turns > 0
              AND id < coalesce((SELECT min(id) FROM episode WHERE job = ?), 9223372036854775807)
            ORDER BY id DESC LIMIT ?
        ) played
        """,
        (environment, job, most),
    )
    return _record(row)


def tokens_of_gates(store: Store, job: int) -> int:
    """Of all episodes that a job's gate played, finished or not."""
    [row] = store.rows(f"SELECT {_TOTALS} FROM (SELECT * FROM episode WHERE job = ? AND purpose = 'gate' AND turns > 0) played", (job,))
    return int(row["tokens"] or 0)


def records_of_job(store: Store, job: int, before_step: int) -> dict[str, list[PlayRecord]]:
    """What a job learned from on-policy with the steps before this one, by environment: a record for each such step, oldest first.

    That is what the step played, and live episodes of the version that the job starts from. Of a step that several attempts at the job
    made, the latest attempt counts.
    """
    rows = store.rows(
        f"""
        WITH own AS (
            SELECT id, environment, "group", success, step_n, attempt FROM episode
            WHERE job = :job AND step_n < :before AND purpose IN ('learn', 'replay') AND state = 'completed' AND seat = 0 AND turns > 0
            UNION ALL
            SELECT e.id, e.environment, e."group", e.success, m.n - 1, m.attempt FROM manifest m JOIN episode e ON e.id = m.episode
            WHERE m.job = :job AND m.n <= :before AND m.on_policy = 1 AND e.purpose = 'live'
        ), latest AS (SELECT step_n, max(attempt) AS attempt FROM own GROUP BY step_n)
        SELECT environment, {_TOTALS} FROM own played JOIN latest USING (step_n, attempt)
        GROUP BY environment, step_n ORDER BY environment, step_n
        """,
        {"job": job, "before": before_step},
    )
    found: dict[str, list[PlayRecord]] = {}
    for row in rows:
        found.setdefault(row["environment"], []).append(_record(row))
    return found


def _record(row: sqlite3.Row) -> PlayRecord:
    return PlayRecord(groups=row["groups"], episodes=row["episodes"], successes=row["successes"] or 0, tokens=row["tokens"] or 0)
