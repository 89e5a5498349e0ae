"""Groups of live play, as a learning job takes them: whole ones that one version played, the newest first.

Groups are found by their age alone, never by their rewards. Left out: single episodes (`traces.py`), and which groups a job takes
(`learners/sampling/live_batches.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from perdure.memory.json_value import to_json
from perdure.memory.store import Store
from perdure.memory.trajectories.traces import MOST


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveGroup:
    """The completed episodes of one live task."""

    environment: str
    seed: int
    version: str
    episodes: tuple[int, ...]
    """Their ids, by member."""
    moves: int
    """Promotions and rollbacks since its version served."""
    is_learned: bool
    """Whether an on-policy batch of another job has one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenGroup:
    """A group that a job took from live play."""

    environment: str
    episodes: tuple[int, ...]
    """Their ids, by member."""
    is_used: bool
    """Whether an update that the job has made so far learned from it."""


def live_groups(store: Store, environment: str, *, job: int, temperature: float) -> list[LiveGroup]:
    """The groups of an environment that a job may learn from, newest first, under any version.

    Left out are groups whose task is not done, which would miss the episodes that take longest; groups with fewer than two completed
    episodes; those played by two versions, at another temperature, or before the environment was found to have changed; and those that
    began after the first episode of the job, so that a job that begins anew finds the same ones again.
    """
    rows = store.rows(
        """
        WITH newest AS (
            SELECT e.id, e."group", e.member, e.seed, e.version, e.temperature, e.started_at, t.state = 'done' AS is_done,
                   EXISTS (SELECT 1 FROM manifest m WHERE m.episode = e.id AND m.on_policy = 1 AND m.job <> :job) AS is_learned
            FROM episode e JOIN task t ON t.id = e.task
            WHERE e.environment = :environment AND e.purpose = 'live' AND e.state = 'completed' AND e.seat = 0 AND e.turns > 0
            ORDER BY e.id DESC LIMIT :most
        )
        SELECT min(seed) AS seed, min(version) AS version, json_group_array(json_array(member, id)) AS members,
               max(is_learned) AS is_learned
        FROM newest GROUP BY "group"
        HAVING count(*) > 1 AND min(is_done) AND count(DISTINCT version) = 1
           AND min(temperature) = :temperature AND max(temperature) = :temperature
           AND min(started_at) >= coalesce((SELECT changed_at FROM environment WHERE name = :environment), 0)
           AND max(id) < coalesce((SELECT min(id) FROM episode WHERE job = :job), 9223372036854775807)
        ORDER BY max(id) DESC
        """,
        {"environment": environment, "job": job, "temperature": temperature, "most": MOST},
    )
    moves = {version: moves_since(store, version) for version in {row["version"] for row in rows}}
    return [
        LiveGroup(
            environment=environment,
            seed=row["seed"],
            version=row["version"],
            episodes=tuple(id_ for _, id_ in sorted(json.loads(row["members"]))),
            moves=moves[row["version"]],
            is_learned=bool(row["is_learned"]),
        )
        for row in rows
    ]


def taken_groups(store: Store, job: int, step: int, ids: Sequence[int]) -> list[TakenGroup]:
    """These episodes by group, newest group first; without those that are no longer in the store. `step` updates of the job count."""
    rows = store.rows(
        """
        WITH used AS (
            SELECT m.episode FROM manifest m WHERE m.job = :job AND m.n <= :step
               AND m.attempt = (SELECT max(latest.attempt) FROM manifest latest WHERE latest.job = m.job AND latest.n = m.n)
        )
        SELECT environment, json_group_array(json_array(member, id)) AS members, max(id IN (SELECT episode FROM used)) AS is_used
        FROM episode WHERE id IN (SELECT value FROM json_each(:ids)) GROUP BY environment, "group" ORDER BY max(id) DESC
        """,
        {"job": job, "step": step, "ids": to_json(list(ids))},
    )
    return [
        TakenGroup(
            environment=row["environment"],
            episodes=tuple(id_ for _, id_ in sorted(json.loads(row["members"]))),
            is_used=bool(row["is_used"]),
        )
        for row in rows
    ]


def moves_since(store: Store, version: str) -> int:
    """Promotions and rollbacks since a version served."""
    [row] = store.rows("SELECT count(*) AS n FROM move WHERE id > coalesce((SELECT max(id) FROM move WHERE to_version = ?), 0)", (version,))
    return int(row["n"])
