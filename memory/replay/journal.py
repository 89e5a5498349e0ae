"""The journal: what is being played, written down as it happens.

`StoreJournal` is what the rollout loop writes to (`envs/rollout.py` says what it expects). Each call is one transaction: a whole generation
batch is kept or lost together, and is on the disk when the call returns. Each call also finds out whether the leases are still held under
which its episodes are played, and keeps them up: a process that was taken over writes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass, replace

from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]  # pysqlite3 where it is installed

from perdure.memory import faults, leases
from perdure.memory.errors import RuntimeFailure
from perdure.memory.leases import TTL_S, Clock, Leased
from perdure.memory.records import Ending, EpisodePlan, Lease, Turn
from perdure.memory.replay.turns import as_kept, insert_turns, read_turns, sampler_columns, turn_columns, valid_text
from perdure.memory.store import Store


@dataclass(slots=True, kw_only=True)
class _Running:
    """An episode that this journal started: under which lease, and how far it is on the disk."""

    kind: Leased
    lease: Lease
    turns: int = 0
    last: Turn | None = None


class StoreJournal:
    """Writes the episodes that one process plays."""

    def __init__(self, store: Store, clock: Clock, ttl_s: float = TTL_S) -> None:
        self._store = store
        self._clock = clock
        self._ttl_s = ttl_s
        self._running: dict[int, _Running] = {}
        self._unsure: set[int] = set()
        """Episodes whose last turns were not acknowledged: the disk knows whether they are there."""

    def start(self, plans: Sequence[EpisodePlan]) -> list[int]:
        """Write the rows of episodes about to be played, and give their ids. A member that its group has completed is refused.

        Called again after an error, it gives the rows that were written without this process hearing of it.
        """
        started = [_Running(kind="task" if plan.purpose == "live" else "job", lease=plan.lease) for plan in plans]
        with self._store.write():
            self._hold(started)
            ids: list[int] = []
            for plan in plans:
                unheard = _unheard_of(self._store, plan, {*self._running, *ids})
                ids.append(_insert_episode(self._store, plan) if unheard is None else unheard)
        self._running.update(zip(ids, started, strict=True))
        return ids

    def turns(self, entries: Sequence[tuple[int, int, Turn]]) -> None:
        """Write the turns of one generation batch: (episode, n, turn), n counted from 0. The same turn once more changes nothing."""
        running = {episode: self._state(episode) for episode, _, _ in entries if episode in self._running}
        self._unsure |= running.keys()
        rows, again = [], []
        for episode, n, turn in entries:
            state = running.get(episode)
            if state is None or n < state.turns:
                again.append((episode, n, turn))
                continue
            if n > state.turns:
                raise RuntimeFailure(f"turn {n} of episode {episode} came before its turn {state.turns}")
            rows.append(turn_columns(episode, n, turn, state.last))
            running[episode] = replace(state, turns=n + 1, last=turn)
        with self._store.write() as conn:
            self._hold(running.values())
            if rows:
                _check_running(conn, {row[0] for row in rows})
                insert_turns(conn, rows)
            for episode, n, turn in again:
                _check_kept(self._store, episode, n, turn)
            faults.point("mid-batch")
        faults.point("after-batch")
        self._running.update(running)
        self._unsure -= running.keys()

    def finish(self, endings: Sequence[Ending]) -> None:
        """Write how episodes ended; one that completes aborts other running attempts at its member. The same again changes nothing."""
        with self._store.write():
            self._hold(self._running[ending.episode] for ending in endings if ending.episode in self._running)
            for ending in endings:
                _finish_episode(self._store, ending, ours=ending.episode in self._running)
            faults.point("mid-ending")
        for ending in endings:
            self._running.pop(ending.episode, None)

    def _state(self, episode: int) -> _Running:
        """How far an episode is on the disk."""
        known = self._running[episode]
        if episode not in self._unsure:
            return known
        kept = read_turns(self._store, [episode])[episode]
        return replace(known, turns=len(kept), last=kept[-1] if kept else None)

    def _hold(self, episodes: Iterable[_Running]) -> None:
        held: dict[Leased, dict[int, Lease]] = {}
        for episode in episodes:
            held.setdefault(episode.kind, {})[id(episode.lease)] = episode.lease  # the members of a task share theirs
        for kind, found in held.items():
            leases.keep(self._store, kind, found.values(), self._ttl_s, self._clock)


def abort_orphans(store: Store) -> int:
    """Mark as aborted what is running under a lease that has ended or been taken over. Gives how many episodes that were."""
    with store.write() as conn:
        return conn.execute(
            """
            UPDATE episode SET state = 'aborted', stop_reason = 'interrupted', error = 'its lease ended', finished_at = ?,
                               turns = (SELECT count(*) FROM turn t WHERE t.episode = episode.id)
            WHERE state = 'running'
            AND NOT EXISTS (SELECT 1 FROM task t WHERE t.id = episode.task AND t.attempt = episode.attempt AND t.state = 'leased')
            AND NOT EXISTS (SELECT 1 FROM job j WHERE j.id = episode.job AND j.attempt = episode.attempt
                            AND j.state IN ('leased', 'running', 'gating'))
            """,
            (time.time(),),
        ).rowcount


def _insert_episode(store: Store, plan: EpisodePlan) -> int:
    sql = """SELECT id FROM episode WHERE "group" = ? AND member = ? AND state = 'completed'"""
    done = store.rows(sql, (plan.group, plan.member))
    if done:
        raise RuntimeFailure(
            f"member {plan.member} of group {plan.group!r} was completed as episode {done[0]['id']}: it is not played twice"
        )
    live = plan.purpose == "live"
    rows = store.rows(
        """
        INSERT INTO episode (environment, seed, "group", member, purpose, task, job, attempt,
                             version, step_job, step_n, temperature, started_at, seat)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id
        """,
        (
            plan.environment,
            plan.seed,
            plan.group,
            plan.member,
            plan.purpose,
            plan.lease.subject if live else None,
            None if live else plan.lease.subject,
            plan.lease.attempt,
            *sampler_columns(plan.sampler),
            float(plan.temperature),
            time.time(),
            plan.seat,
        ),
    )
    return int(rows[0]["id"])


def _unheard_of(store: Store, plan: EpisodePlan, known: Collection[int]) -> int | None:
    """The row of this plan, under this lease, that nobody plays: its writing was not acknowledged."""
    rows = store.rows(
        """
        SELECT id FROM episode
        WHERE "group" = ? AND member = ? AND state = 'running' AND purpose = ? AND coalesce(task, job) = ? AND attempt = ?
          AND version IS ? AND step_job IS ? AND step_n IS ? AND NOT EXISTS (SELECT 1 FROM turn t WHERE t.episode = episode.id)
        ORDER BY id
        """,
        (plan.group, plan.member, plan.purpose, plan.lease.subject, plan.lease.attempt, *sampler_columns(plan.sampler)),
    )
    return next((int(row["id"]) for row in rows if row["id"] not in known), None)


def _check_running(conn: sqlite3.Connection, episodes: Set[int]) -> None:
    """Raise `RuntimeFailure` where one of these episodes has ended."""
    given = (json.dumps(list(episodes)),)
    running = "FROM episode WHERE id IN (SELECT value FROM json_each(?)) AND state = 'running'"
    if conn.execute(f"SELECT count(*) {running}", given).fetchone() != (len(episodes),):
        ended = episodes - {id_ for (id_,) in conn.execute(f"SELECT id {running}", given).fetchall()}
        raise RuntimeFailure(f"episode {min(ended)} has ended: a turn of it comes too late")


def _check_kept(store: Store, episode: int, n: int, turn: Turn) -> None:
    """A turn that is on the disk already may come again, as it was; history is not rewritten."""
    kept = read_turns(store, [episode])[episode]
    if n >= len(kept):
        raise RuntimeFailure(f"turn {n} came for episode {episode}, which this process is not playing")
    if kept[n] != as_kept(turn):
        raise RuntimeFailure(f"turn {n} of episode {episode} is journalled with other content: an episode is not rewritten")


def _finish_episode(store: Store, ending: Ending, ours: bool) -> None:
    rows = store.rows("SELECT * FROM episode WHERE id = ?", (ending.episode,))
    if not rows or (not ours and rows[0]["state"] == "running"):
        raise RuntimeFailure(f"an ending came for episode {ending.episode}, which this process is not playing")
    row = rows[0]
    if row["state"] != "running":
        if (row["state"], row["stop_reason"], row["total_reward"]) != (ending.state, ending.stop_reason, ending.total_reward):
            raise RuntimeFailure(f"episode {ending.episode} is {row['state']} already: it cannot become {ending.state}")
        return
    with store.write() as conn:
        if ending.state == "completed":
            conn.execute(
                """
                UPDATE episode SET state = 'aborted', stop_reason = 'interrupted', error = 'another attempt ended first', finished_at = ?,
                                   turns = (SELECT count(*) FROM turn t WHERE t.episode = episode.id)
                WHERE "group" = ? AND member = ? AND state = 'running' AND id <> ?
                """,
                (time.time(), row["group"], row["member"], ending.episode),
            )
        conn.execute(
            """
            UPDATE episode SET state = ?, stop_reason = ?, total_reward = ?, success = ?, score = ?, error = ?, finished_at = ?,
                               turns = (SELECT count(*) FROM turn t WHERE t.episode = episode.id)
            WHERE id = ?
            """,
            (
                ending.state,
                ending.stop_reason,
                float(ending.total_reward),
                int(ending.success),
                float(ending.score),
                None if ending.error is None else valid_text(ending.error),
                time.time(),
                ending.episode,
            ),
        )
        if ending.state == "completed" and row["purpose"] == "live" and row["seat"] == 0 and row["version"] is not None:
            _count(conn, row, ending)


def _count(conn: sqlite3.Connection, row: sqlite3.Row, ending: Ending) -> None:
    """Count a live episode that has just completed. Its group is mixed as soon as two of its returns differ."""
    sql = """
        SELECT count(*), min(total_reward), max(total_reward) FROM episode
        WHERE "group" = ? AND state = 'completed' AND purpose = 'live' AND version = ? AND environment = ? AND id <> ?
    """
    others, low, high = conn.execute(sql, (row["group"], row["version"], row["environment"], row["id"])).fetchone()
    mixes = others > 0 and low == high != ending.total_reward
    conn.execute(
        """
        INSERT INTO rate (version, environment, episodes, successes, groups, mixed_groups) VALUES (?, ?, 1, ?, ?, ?)
        ON CONFLICT (version, environment) DO UPDATE SET episodes = episodes + 1, successes = successes + excluded.successes,
            groups = groups + excluded.groups, mixed_groups = mixed_groups + excluded.mixed_groups
        """,
        (row["version"], row["environment"], int(ending.success), int(others == 0), int(mixes)),
    )
