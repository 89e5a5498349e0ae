"""Reading episodes: one with every token, lists of them, and success rates.

Aborted episodes and those in which the environment failed are listed but never counted. Left out: writing (`journal.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from perdure.memory.errors import RuntimeFailure, ShardLost, UnknownError
from perdure.memory.history.checked_shards import lost_episodes
from perdure.memory.history.shard_index import turns_in_shards
from perdure.memory.json_value import Document, record_json, to_json
from perdure.memory.processes import record_event
from perdure.memory.records import Episode, EpisodeState, Purpose, StopReason, Turn
from perdure.memory.store import ARCHIVE, Store
from perdure.memory.trajectories.turns import read_turns

Outcome = Literal["success", "failure", "running", "aborted", "env_error"]
"""How an episode ended. A failure is one that completed without success."""
ENDED: dict[Outcome, str] = {
    "success": "e.state = 'completed' AND e.success = 1",
    "failure": "e.state = 'completed' AND e.success = 0",
    "running": "e.state = 'running'",
    "aborted": "e.state = 'aborted'",
    "env_error": "e.state = 'env_error'",
}
LOST = "lost"
"""The kind of the events that name a shard which cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeSummary:
    """One line of a list of episodes."""

    id: int
    environment: str
    seed: int
    purpose: Purpose
    state: EpisodeState
    success: bool
    total_reward: float
    turns: int
    stop_reason: StopReason | None
    sampler: str
    """The version, or 'job 3 step 5'."""
    task: int | None
    job: int | None
    seat: int
    started: float

    def as_json(self) -> Document:
        """The listing's keys."""
        return record_json(self, times=("started",))


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRow:
    """The results of one version in one environment."""

    episodes: int
    successes: int
    groups: int
    mixed_groups: int
    """Groups whose returns differ: only they have a policy gradient."""

    def as_json(self) -> Document:
        """The listing's keys."""
        return {
            "episodes": self.episodes,
            "successes": self.successes,
            "success_rate": self.successes / self.episodes,
            "groups": self.groups,
            "mixed_groups": self.mixed_groups,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCount:
    """The live episodes of one run in one environment."""

    environment: str
    episodes: int
    successes: int
    not_counted: int
    """Interrupted, or the environment failed."""


def get_episode(store: Store, episode: int) -> Episode:
    """One episode with its turns, in any state. Raises `UnknownError`, and `ShardLost` if its turns are in a shard that cannot be read."""
    for why in lost_episodes(store, [episode]).values():
        raise ShardLost(f"the turns of episode {episode} cannot be read: {why}")
    episodes = episodes_by_id(store, [episode])
    if not episodes:
        latest = latest_episode_id(store)
        pruned = f", and old ones are in {store.home / ARCHIVE}" if latest and episode < latest and (store.home / ARCHIVE).is_dir() else ""
        raise UnknownError(f"no episode {episode}; {f'the latest is {latest}' if latest else 'there are none yet'}{pruned}")
    return episodes[0]


def latest_episode_id(store: Store) -> int | None:
    """The id of the episode that started last; None if there is none."""
    latest: int | None = store.rows("SELECT max(id) AS id FROM episode")[0]["id"]
    return latest


def list_episodes(
    store: Store,
    environment: str | None = None,
    version: str | None = None,
    limit: int = 20,
    *,
    purpose: Purpose | None = None,
    outcome: Outcome | None = None,
    before: int | None = None,
) -> list[EpisodeSummary]:
    """The latest episodes, latest first; only those of an environment, a version, a purpose or an outcome, and with a lower number than
    `before`, if given."""
    parameters = {"environment": environment, "version": version, "purpose": purpose, "before": before, "limit": max(limit, 0)}
    conditions = [f"e.{column} = :{column}" for column in ("environment", "version", "purpose") if parameters[column] is not None]
    conditions += [ENDED[outcome]] if outcome is not None else []
    conditions += ["e.id < :before"] if before is not None else []
    rows = store.rows(
        f"""
        SELECT e.*, coalesce(e.version, 'job ' || e.step_job || ' step ' || e.step_n) AS sampler,
               CASE e.state WHEN 'running' THEN (SELECT count(*) FROM turn t WHERE t.episode = e.id) ELSE e.turns END AS so_far
        FROM episode e {"WHERE " if conditions else ""}{" AND ".join(conditions)} ORDER BY e.id DESC LIMIT :limit
        """,
        parameters,
    )
    return [
        EpisodeSummary(
            id=row["id"],
            environment=row["environment"],
            seed=row["seed"],
            purpose=row["purpose"],
            state=row["state"],
            success=bool(row["success"]),
            total_reward=row["total_reward"],
            turns=row["so_far"],
            stop_reason=row["stop_reason"],
            sampler=row["sampler"],
            task=row["task"],
            job=row["job"],
            seat=row["seat"],
            started=row["started_at"],
        )
        for row in rows
    ]


def completed_members(store: Store, groups: Sequence[str]) -> dict[str, frozenset[int]]:
    """The completed members of each group. After an interruption only the others are played."""
    rows = store.rows(
        """SELECT "group", member FROM episode WHERE "group" IN (SELECT value FROM json_each(?)) AND state = 'completed'""",
        (to_json(list(groups)),),
    )
    return {group: frozenset(row["member"] for row in rows if row["group"] == group) for group in groups}


def scores_of_groups(store: Store, job: int, groups: Sequence[str]) -> dict[str, dict[int, float | None]]:
    """The scores of a job's episodes that have ended, by group and member; None if the environment failed. The last attempt counts."""
    rows = store.rows(
        """
        SELECT "group", member, state, score FROM episode
        WHERE job = ? AND "group" IN (SELECT value FROM json_each(?)) AND state IN ('completed', 'env_error') AND seat = 0 ORDER BY id
        """,
        (job, to_json(list(groups))),
    )
    scores: dict[str, dict[int, float | None]] = {group: {} for group in groups}
    for row in rows:
        scores[row["group"]][row["member"]] = row["score"] if row["state"] == "completed" else None
    return scores


def success_rates(store: Store, version: str) -> dict[str, RateRow]:
    """The results of `version` by environment, over all completed live episodes, also those that were pruned."""
    rows = store.rows("SELECT * FROM rate WHERE version = ? ORDER BY environment", (version,))
    return {row["environment"]: _rate(row) for row in rows}


def rates_in(store: Store, environment: str) -> dict[str, RateRow]:
    """The same of all versions in one environment, by version, oldest first."""
    sql = "SELECT r.* FROM rate r JOIN version v ON v.name = r.version WHERE r.environment = ? ORDER BY v.rowid"
    return {row["version"]: _rate(row) for row in store.rows(sql, (environment,))}


def live_episodes(store: Store, version: str, since: float) -> int:
    """How many live episodes of a version began after `since` (Unix seconds) and after the last learning job ended.

    A time in the future was written before the clock was set back. It is ignored, and the order of the episodes decides.
    """
    now = time.time()
    rows = store.rows(
        """
        WITH last AS (SELECT id, coalesce(finished_at, created_at) AS ended FROM job WHERE kind = 'learn' ORDER BY id DESC LIMIT 1)
        SELECT count(*) AS n FROM episode
        WHERE version = :version AND purpose = 'live' AND state = 'completed' AND seat = 0
          AND started_at > max(:since, coalesce((SELECT ended FROM last WHERE ended <= :now), 0))
          AND id > coalesce((SELECT max(played.id) FROM episode played WHERE played.job = (SELECT id FROM last)), 0)
        """,
        {"version": version, "since": since if since <= now else 0.0, "now": now},
    )
    return int(rows[0]["n"])


def played_after(store: Store, episode: int) -> list[LiveCount]:
    """Counts of the live episodes with a higher id, by environment."""
    rows = store.rows(
        """
        SELECT environment, sum(state = 'completed') AS episodes, sum(success) AS successes, sum(state <> 'completed') AS not_counted
        FROM episode WHERE id > ? AND purpose = 'live' AND seat = 0 GROUP BY environment ORDER BY environment
        """,
        (episode,),
    )
    return [LiveCount(**dict(row)) for row in rows]


def count(store: Store) -> int:
    """How many episodes the store has."""
    return int(store.rows("SELECT count(*) AS n FROM episode")[0]["n"])


def counts(store: Store) -> dict[str, int]:
    """How many episodes and turns the store has, with those in shards. Counting turns reads a whole index."""
    return {"episodes": count(store), "turns": int(store.rows("SELECT count(*) AS n FROM turn")[0]["n"]) + turns_in_shards(store)}


def episodes_by_id(store: Store, ids: Sequence[int]) -> list[Episode]:
    """These episodes with their turns, ordered by id. Missing ones are left out; so are those in a shard that cannot be read: an event
    names it."""
    lost = lost_episodes(store, ids)
    for why in sorted(set(lost.values())):
        _tell_lost(store, why)
    given = to_json([id_ for id_ in ids if id_ not in lost])
    rows = store.rows("SELECT * FROM episode WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id", (given,))
    turns = read_turns(store, [row["id"] for row in rows])
    return [_episode(row, turns[row["id"]]) for row in rows]


def _rate(row: Any) -> RateRow:
    return RateRow(episodes=row["episodes"], successes=row["successes"], groups=row["groups"], mixed_groups=row["mixed_groups"])


def _tell_lost(store: Store, why: str) -> None:
    """Record an event, once in the life of a home. Not if it cannot be written to, which is no reason not to read it."""
    if not store.rows("SELECT 1 FROM event WHERE kind = ? AND message = ? LIMIT 1", (LOST, why)):
        with suppress(RuntimeFailure):
            record_event(store, LOST, "history", why)


def _episode(row: Any, turns: tuple[Turn, ...]) -> Episode:
    return Episode(
        id=row["id"],
        environment=row["environment"],
        seed=row["seed"],
        group=row["group"],
        member=row["member"],
        purpose=row["purpose"],
        state=row["state"],
        turns=turns,
        total_reward=row["total_reward"],
        success=bool(row["success"]),
        score=row["score"],
        stop_reason=row["stop_reason"],
        temperature=row["temperature"],
        task=row["task"],
        job=row["job"],
        error=row["error"],
        seat=row["seat"],
        code=row["code"],
        instructions=row["instructions"],
    )
