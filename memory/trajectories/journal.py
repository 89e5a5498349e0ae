"""The journal: episodes, written down while they are played.

`StoreJournal` is what the rollout loop writes to (`envs/rollout.py:Journal`). Each call is one transaction: a whole generation batch is
written, or nothing, and it is on the disk when the call returns. Each call also checks and renews the leases under which its episodes are
played: a process that has lost its lease writes nothing. Left out: repeating a call that failed. Its process ends, the lease ends the
attempt, and unique indexes refuse a second row of the same turn or member.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

from perdure.memory import environments, faults, leases
from perdure.memory.errands.errand_records import ERRAND_TTL_S
from perdure.memory.errors import RuntimeFailure
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.leases import TTL_S, Clock, Leased
from perdure.memory.records import Ending, EpisodePlan, Lease, Sampler, Turn
from perdure.memory.store import Store
from perdure.memory.trajectories.turns import insert_turns, read_sampler, read_turns, sampler_columns, turn_columns, valid_text


@dataclass(slots=True, kw_only=True)
class InPlay:
    """An episode that this journal started or took up: its lease, who samples it, and where its written turns end."""

    kind: Leased
    lease: Lease
    sampler: Sampler
    end: tuple[int, Turn | None, int | None] = (0, None, None)
    """How many turns are written, the last of them, and its digest."""


class StoreJournal:
    """Writes the episodes that one process plays."""

    def __init__(
        self, store: Store, clock: Clock, ttl_s: float = TTL_S, *, errands: Sequence[Lease] = (), errand_ttl_s: float = ERRAND_TTL_S
    ) -> None:
        """`errands`: those that a player plays with it. It writes only while all of them are held, and keeps them meanwhile."""
        self._store = store
        self._clock = clock
        self._ttl_s = ttl_s
        self._errands = tuple(errands)
        self._errand_ttl_s = errand_ttl_s
        self._running: dict[int, InPlay] = {}

    def start(self, plans: Sequence[EpisodePlan]) -> list[int]:
        """Write the rows of episodes about to be played and return their ids. Refuses a member that its group has completed, and an
        environment whose code was loaded anew by another process and differs (`environments.py:check_code`)."""
        started = [InPlay(kind="task" if plan.purpose == "live" else "job", lease=plan.lease, sampler=plan.sampler) for plan in plans]
        with self._store.write():
            self._renew(started)
            for environment, code in {(plan.environment, plan.code) for plan in plans}:
                environments.check_code(self._store, environment, code)
            ids = [_insert_episode(self._store, plan) for plan in plans]
        self._running.update(zip(ids, started, strict=True))
        return ids

    def turns(self, entries: Sequence[tuple[int, int, Turn]]) -> None:
        """Write the turns of one generation batch: (episode, n, turn), with n counted from 0."""
        ends: dict[int, tuple[int, Turn, int]] = {}
        rows = []
        for episode, n, turn in entries:
            if episode not in self._running:
                raise RuntimeFailure(f"turn {n} came for episode {episode}, which this process is not playing")
            written, before, digest = ends.get(episode) or self._running[episode].end
            if n != written:
                raise RuntimeFailure(f"turn {n} of episode {episode} is out of order: turn {written} comes next")
            row = turn_columns(episode, n, turn, before, digest)
            rows.append(row)
            ends[episode] = n + 1, turn, row[-1]
        with self._store.write() as conn:
            self._renew(self._running[episode] for episode in ends)
            _check_running(conn, ends.keys())
            insert_turns(conn, rows)
            faults.point("mid-batch")
        faults.point("after-batch")
        for episode, end in ends.items():
            self._running[episode].end = end

    def finish(self, endings: Sequence[Ending]) -> None:
        """Write how episodes ended. One that completes aborts other running attempts at its member."""
        for ending in endings:
            if ending.episode not in self._running:
                raise RuntimeFailure(f"an ending came for episode {ending.episode}, which this process is not playing")
        with self._store.write() as conn:
            self._renew(self._running[ending.episode] for ending in endings)
            for ending in endings:
                _finish_episode(self._store, conn, ending)
            faults.point("mid-ending")
        for ending in endings:
            del self._running[ending.episode]

    def in_play(self, episode: int) -> InPlay | None:
        """An episode that this journal has started or taken up, and that has not ended."""
        return self._running.get(episode)

    def take_up(self, episode: int, lease: Lease) -> InPlay:
        """Go on with an episode that another process began under this lease, and that still runs.

        Raises `RuntimeFailure` if it does not run, or runs under another lease.
        """
        rows = self._store.rows("SELECT * FROM episode WHERE id = ? AND state = 'running'", (episode,))
        kind: Leased = "task" if rows and rows[0]["task"] is not None else "job"
        if not rows or (rows[0][kind], rows[0]["attempt"]) != (lease.subject, lease.attempt):
            raise RuntimeFailure(f"episode {episode} does not run under attempt {lease.attempt} of {kind} {lease.subject}")
        turns = read_turns(self._store, [episode])[episode]
        digests = self._store.rows("SELECT digest FROM turn WHERE episode = ? ORDER BY n DESC LIMIT 1", (episode,))
        end = (len(turns), turns[-1], digests[0]["digest"]) if turns else (0, None, None)
        self._running[episode] = InPlay(kind=kind, lease=lease, sampler=read_sampler(rows[0]), end=end)
        return self._running[episode]

    def forget(self, gone: Callable[[InPlay], bool]) -> None:
        """Write no more about these episodes, unless they are taken up again."""
        self._running = {episode: one for episode, one in self._running.items() if not gone(one)}

    def _renew(self, episodes: Iterable[InPlay]) -> None:
        """Check the leases of these episodes, and renew them if it is time."""
        found: dict[Leased, list[Lease]] = {}
        for episode in {id(episode.lease): episode for episode in episodes}.values():  # the members of a task share theirs
            found.setdefault(episode.kind, []).append(episode.lease)
        for kind, held in found.items():
            leases.check_and_renew(self._store, kind, held, self._ttl_s, self._clock)
        leases.check_and_renew(self._store, "errand", self._errands, self._errand_ttl_s, self._clock)


def abort_orphans(store: Store) -> int:
    """Abort the episodes that run under a lease that has ended or been taken over. Returns how many they were."""
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
                             version, step_job, step_n, temperature, started_at, seat, code)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id
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
            plan.code,
        ),
    )
    return int(rows[0]["id"])


def _check_running(conn: sqlite3.Connection, episodes: Set[int]) -> None:
    """Raise `RuntimeFailure` if one of these episodes has ended."""
    given = (json.dumps(list(episodes)),)
    running = "FROM episode WHERE id IN (SELECT value FROM json_each(?)) AND state = 'running'"
    if conn.execute(f"SELECT count(*) {running}", given).fetchone() != (len(episodes),):
        ended = episodes - {id_ for (id_,) in conn.execute(f"SELECT id {running}", given).fetchall()}
        raise RuntimeFailure(f"episode {min(ended)} has ended: a turn of it came too late")


def _finish_episode(store: Store, conn: sqlite3.Connection, ending: Ending) -> None:
    (row,) = store.rows("SELECT * FROM episode WHERE id = ?", (ending.episode,))
    if row["state"] != "running":
        raise RuntimeFailure(f"episode {ending.episode} is {row['state']} already: it cannot become {ending.state}")
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
        UPDATE episode SET state = ?, stop_reason = ?, total_reward = ?, success = ?, score = ?, error = ?, instructions = ?,
                           finished_at = ?, turns = (SELECT count(*) FROM turn t WHERE t.episode = episode.id)
        WHERE id = ?
        """,
        (
            ending.state,
            ending.stop_reason,
            float(ending.total_reward),
            int(ending.success),
            float(ending.score),
            None if ending.error is None else valid_text(ending.error),
            None if ending.instructions is None else valid_text(ending.instructions),
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
