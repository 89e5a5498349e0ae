"""The job's side of errands: queueing a batch, how far it is, taking some back, and the scores in order.

Every call is made under the lease of the job, and only errands of its own attempt are touched: those of an earlier one are abandoned when
a new one begins. Left out: waiting (`agent/cluster/judging/errand_player.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from perdure.memory import leases
from perdure.memory.errands.errand_leases import queue_again, take
from perdure.memory.errands.errand_records import AnswerScores, Errand, ErrandTerms
from perdure.memory.errors import RuntimeFailure
from perdure.memory.leases import ATTEMPT_CAP, HELD, Clock
from perdure.memory.records import Lease
from perdure.memory.store import Store, reading_row

OWN_TTL_S = 7 * 86_400.0
"""The job's own errands do not lapse while it lives: they end with its lease."""
OF_BATCH = "job = ? AND job_attempt = ? AND batch = ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProgress:
    """How many errands of a batch are in which state."""

    waiting: int
    """For a player."""
    spoilt: int
    """Queued, but refused to players after too many bad endings: the job plays them."""
    away: int
    """Leased to players."""
    done: int

    @property
    def complete(self) -> bool:
        return not (self.waiting or self.spoilt or self.away)


def abandon_earlier(store: Store, job: Lease) -> int:
    """Abandon the errands of earlier attempts at this job, and forget those of jobs that have ended. Returns how many were abandoned.

    Raises `LeaseLost`.
    """
    with store.write() as conn:
        leases.check(store, "job", job)
        conn.execute("DELETE FROM errand WHERE job IN (SELECT id FROM job WHERE state IN ('done', 'failed'))")
        sql = "UPDATE errand SET state = 'abandoned', owner = NULL, finished_at = ? WHERE job = ? AND job_attempt < ? AND state IN ({})"
        return conn.execute(sql.format("'queued', 'leased'"), (time.time(), job.subject, job.attempt)).rowcount


def queue_errands(store: Store, job: Lease, terms: ErrandTerms, draws: Sequence[tuple[str, int]]) -> int:
    """Queue a batch of draws, each an environment and a seed; returns its number. Raises `LeaseLost`."""
    with store.write() as conn:
        leases.check(store, "job", job)
        sql = "SELECT coalesce(max(batch), 0) + 1 FROM errand WHERE job = ? AND job_attempt = ?"
        batch = int(store.rows(sql, (job.subject, job.attempt))[0][0])
        conn.executemany(
            """
            INSERT INTO errand (job, job_attempt, batch, n, version, serving, purpose, environment, seed, samples, temperature, created_at)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            [
                (
                    *(job.subject, job.attempt, batch, n),
                    *(terms.version, terms.serving, terms.purpose, environment, seed, terms.samples, float(terms.temperature)),
                    time.time(),
                )
                for n, (environment, seed) in enumerate(draws)
            ],
        )
    return batch


def batch_progress(store: Store, job: Lease, batch: int) -> BatchProgress:
    """How far a batch is."""
    [row] = store.rows(
        f"""
        SELECT coalesce(sum(state = 'queued' AND spent < {ATTEMPT_CAP}), 0) AS waiting,
               coalesce(sum(state = 'queued' AND spent >= {ATTEMPT_CAP}), 0) AS spoilt,
               coalesce(sum(state = 'leased'), 0) AS away, coalesce(sum(state = 'done'), 0) AS done
        FROM errand WHERE {OF_BATCH}
        """,
        _batch(job, batch),
    )
    return BatchProgress(waiting=row["waiting"], spoilt=row["spoilt"], away=row["away"], done=row["done"])


def take_back(store: Store, job: Lease, batch: int, limit: int, clock: Clock, *, only_spoilt: bool) -> list[Errand]:
    """Lease up to `limit` queued errands of a batch to the job itself; those that players are refused come first. Raises `LeaseLost`."""
    with store.write():
        leases.check(store, "job", job)
        spoilt = f" AND spent >= {ATTEMPT_CAP}" if only_spoilt else ""
        which = f"SELECT id FROM errand WHERE {OF_BATCH} AND state = 'queued'{spoilt} ORDER BY spent < {ATTEMPT_CAP}, id LIMIT ?"
        return take(store, job.owner, which, (*_batch(job, batch), limit), OWN_TTL_S, clock)


def call_back(store: Store, job: Lease, batch: int, why: str) -> int:
    """Take a batch's errands from players that do not end them, so that the job plays them itself. Returns how many. Raises `LeaseLost`."""
    with store.write():
        leases.check(store, "job", job)
        return queue_again(store, f"{OF_BATCH} AND {HELD['errand']}", _batch(job, batch), why, ATTEMPT_CAP)


def scores_of_batch(store: Store, job: Lease, batch: int) -> list[AnswerScores]:
    """The scores of a complete batch, in the order of its draws. Raises `RuntimeFailure` if one is missing."""
    rows = store.rows(f"SELECT id, scores FROM errand WHERE {OF_BATCH} ORDER BY n", _batch(job, batch))
    found: list[AnswerScores] = []
    for row in rows:
        if row["scores"] is None:
            raise RuntimeFailure(f"errand {row['id']} of job {job.subject} has no scores: its batch is not complete")
        with reading_row(f"errand {row['id']}"):
            found.append(tuple(json.loads(row["scores"])))
    return found


def abandon_batch(store: Store, job: Lease, batch: int) -> None:
    """Nobody needs the open errands of this batch any more. Does not check the lease: it takes from this attempt only."""
    sql = f"UPDATE errand SET state = 'abandoned', owner = NULL, finished_at = ? WHERE {OF_BATCH} AND state IN ('queued', 'leased')"
    with store.write() as conn:
        conn.execute(sql, (time.time(), *_batch(job, batch)))


def _batch(job: Lease, batch: int) -> tuple[int, int, int]:
    return job.subject, job.attempt, batch
