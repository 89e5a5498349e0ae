"""The player's side of errands: taking some, keeping them, and giving back scores.

Only errands of living jobs are handed out, the oldest first, and those of one batch, so that one version answers all. Every write checks
the lease on the errand and that its job is still at the same attempt. A player that dies loses its errands when they lapse: another plays
them anew, in other groups. After `ATTEMPT_CAP` bad endings no player gets an errand: the job plays it itself (`errand_queue.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from perdure.memory import leases
from perdure.memory.errands.errand_records import AnswerScores, Errand, ErrandTerms, check_scores, group_of
from perdure.memory.errors import Conflict, LeaseLost
from perdure.memory.json_value import Document, to_json
from perdure.memory.leases import ATTEMPT_CAP, HELD, Clock
from perdure.memory.records import Lease
from perdure.memory.store import Store

PRESENT_S = 20.0
"""A player that has not asked for so long is not counted as one that will take errands."""
NOTED_S = 2.0
"""That a player asked is written down at most so often."""
FORGOTTEN_S = 3600.0

JOB_LIVES = f"EXISTS (SELECT 1 FROM job j WHERE j.id = errand.job AND j.attempt = errand.job_attempt AND {HELD['job']})"
"""The condition on errands of jobs that are at the attempt that queued them."""
JOB_AWAKE = f"""EXISTS (SELECT 1 FROM job j WHERE j.id = errand.job AND j.attempt = errand.job_attempt AND {HELD["job"]}
    AND j.boot_id = ? AND j.lease_until >= ?)"""
"""The same, of jobs whose lease has not lapsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrandsNow:
    """The open errands of living jobs."""

    waiting: int
    at: dict[str, int]
    """How many each player, or the job itself, holds."""
    judges: int
    """Players that have asked lately."""

    def as_json(self) -> Document:
        """The keys of `errands` in `perdure status --json`."""
        return {"waiting": self.waiting, "at": self.at, "judges": self.judges}

    def line(self) -> str | None:
        """What `perdure status` says; None if there is none."""
        if not (self.waiting or self.at):
            return None
        held = ", ".join(f"{number} at {owner}" for owner, number in self.at.items())
        asking = f"{self.judges} player{'s' if self.judges != 1 else ''} asked lately"
        return "; ".join(part for part in (f"{self.waiting} wait", held, asking) if part)


def lease_errands(store: Store, owner: str, limit: int, ttl_s: float, clock: Clock) -> list[Errand]:
    """Lease up to `limit` errands of the oldest batch to the player `owner`; none if nothing waits.

    All players that ask get shares of the same size, so that all play at once. Errands whose lease has lapsed are queued again before that.
    """
    note_judge(store, owner, clock)
    if not store.rows("SELECT 1 FROM errand WHERE state IN ('queued', 'leased') LIMIT 1"):
        return []
    with store.write():
        requeue_lapsed_errands(store, clock)
        free = f"state = 'queued' AND spent < {ATTEMPT_CAP}"
        sql = f"SELECT job, job_attempt, batch FROM errand WHERE {free} AND {JOB_AWAKE} ORDER BY id LIMIT 1"
        oldest = store.rows(sql, (clock.boot_id(), clock.now_s()))
        if not oldest:
            return []
        batch = tuple(oldest[0])
        (size,) = store.rows("SELECT count(*) FROM errand WHERE job = ? AND job_attempt = ? AND batch = ?", batch)[0]
        share = -(-size // max(1, judges_present(store, clock)))
        which = f"SELECT id FROM errand WHERE {free} AND job = ? AND job_attempt = ? AND batch = ? ORDER BY id LIMIT ?"
        return take(store, owner, which, (*batch, min(limit, share)), ttl_s, clock)


def take(store: Store, owner: str, which: str, parameters: Sequence[Any], ttl_s: float, clock: Clock) -> list[Errand]:
    """Lease the errands whose ids a query gives. Call it inside a transaction."""
    rows = store.rows(
        f"""
        UPDATE errand SET state = 'leased', owner = ?, attempt = attempt + 1, lease_until = ?, boot_id = ? WHERE id IN ({which})
        RETURNING *, (SELECT j.owner FROM job j WHERE j.id = errand.job) AS job_owner
        """,
        (owner, clock.now_s() + ttl_s, clock.boot_id(), *parameters),
    )
    return [_errand(row) for row in sorted(rows, key=lambda row: int(row["id"]))]


def renew_errands(store: Store, held: Sequence[Lease], ttl_s: float, clock: Clock) -> None:
    """Keep errands for as long again. Raises `LeaseLost` if one is held no more, or its job has ended or began anew."""
    with store.write():
        for lease in held:
            leases.renew(store, "errand", lease, ttl_s, clock)
            _check_job(store, lease)
    for owner in {lease.owner for lease in held}:
        note_judge(store, owner, clock)


def keep_errands_of(store: Store, owner: str, ttl_s: float, clock: Clock) -> None:
    """Keep all errands of one player that was heard, if it is time."""
    until, boot = clock.now_s() + ttl_s, clock.boot_id()
    held = f"owner = ? AND {HELD['errand']} AND lease_until BETWEEN 0 AND ?"
    if store.rows(f"SELECT 1 FROM errand WHERE {held} LIMIT 1", (owner, until - ttl_s / 4)):
        with store.write() as conn:
            sql = f"UPDATE errand SET lease_until = ?, boot_id = ? WHERE {held}"
            conn.execute(sql, (until, boot, owner, until - ttl_s / 4))
    note_judge(store, owner, clock)


def end_errands(store: Store, ended: Iterable[tuple[Lease, AnswerScores]]) -> None:
    """Write the scores of errands: all of them, or nothing. The same again changes nothing.

    Raises `LeaseLost` if one is held no more, `Conflict` if it was ended with other scores, and `InputError` if these are no scores of it.
    """
    with store.write() as conn:
        for lease, scores in ended:
            rows = store.rows("SELECT state, owner, attempt, samples, scores FROM errand WHERE id = ?", (lease.subject,))
            if rows and (rows[0]["state"], rows[0]["owner"], rows[0]["attempt"]) == ("done", lease.owner, lease.attempt):
                if json.loads(rows[0]["scores"]) != list(scores):
                    raise Conflict(f"errand {lease.subject} was ended with the scores {rows[0]['scores']}: others are refused")
                continue
            leases.check(store, "errand", lease)
            _check_job(store, lease)
            check_scores(lease.subject, rows[0]["samples"], scores)
            conn.execute(
                "UPDATE errand SET state = 'done', scores = ?, error = NULL, finished_at = ? WHERE id = ?",
                (to_json(list(scores)), time.time(), lease.subject),
            )


def release_errands(store: Store, held: Sequence[Lease], error: str | None) -> None:
    """Give errands back that were not played to the end; `error` says why, if it was no orderly stop. One held no more stays as it is."""
    with store.write():
        for lease in held:
            queue_again(store, f"id = ? AND owner = ? AND attempt = ? AND {HELD['errand']}", _key(lease), error)


def requeue_errands_of(store: Store, owner: str, error: str | None) -> int:
    """Queue all errands of one player again, whose process has ended or fell silent. Returns how many they were."""
    return queue_again(store, f"{HELD['errand']} AND owner = ?", (owner,), error)


def requeue_lapsed_errands(store: Store, clock: Clock) -> int:
    """Queue errands again whose player has been silent for too long. Returns how many they were."""
    condition, parameters = leases.lapsed(clock)
    return queue_again(store, f"{HELD['errand']} AND {condition}", parameters, "its player fell silent")


def note_judge(store: Store, name: str, clock: Clock) -> None:
    """Write down that a player asked, unless that was written a moment ago."""
    now, boot = clock.now_s(), clock.boot_id()
    noted = store.rows("SELECT 1 FROM judge WHERE name = ? AND boot_id = ? AND asked_s > ?", (name, boot, now - NOTED_S))
    # While no job is at work, nobody reads it.
    if noted or not store.rows(f"SELECT 1 FROM job WHERE {HELD['job']} LIMIT 1"):
        return
    with store.write() as conn:
        conn.execute("DELETE FROM judge WHERE boot_id <> ? OR asked_s < ?", (boot, now - FORGOTTEN_S))
        conn.execute(
            """
            INSERT INTO judge (name, asked_s, boot_id) VALUES (?, ?, ?)
            ON CONFLICT (name) DO UPDATE SET asked_s = excluded.asked_s, boot_id = excluded.boot_id
            """,
            (name, now, boot),
        )


def last_asked_s(store: Store, clock: Clock) -> float | None:
    """When a player last asked for errands, on the boot-time clock; None if none has."""
    asked = store.rows("SELECT max(asked_s) FROM judge WHERE boot_id = ?", (clock.boot_id(),))[0][0]
    return None if asked is None else float(asked)


def errands_now(store: Store, clock: Clock) -> ErrandsNow:
    """The open errands of living jobs: how many wait, and who has the others."""
    at = {
        row["owner"]: int(row["n"])
        for row in store.rows(
            f"""
            SELECT iif(state = 'leased', owner, NULL) AS owner, count(*) AS n FROM errand
            WHERE state IN ('queued', 'leased') AND {JOB_LIVES} GROUP BY 1 ORDER BY 1
            """
        )
    }
    return ErrandsNow(waiting=at.pop(None, 0), at=at, judges=judges_present(store, clock))


def judges_present(store: Store, clock: Clock) -> int:
    """How many players have asked for errands in the last `PRESENT_S`."""
    sql = "SELECT count(*) FROM judge WHERE boot_id = ? AND asked_s > ?"
    return int(store.rows(sql, (clock.boot_id(), clock.now_s() - PRESENT_S))[0][0])


def queue_again(store: Store, condition: str, parameters: Sequence[Any], error: str | None, spends: int = 1) -> int:
    """Queue the leased errands of a condition again, and abort the episodes that were in play for them. An error spends attempts."""
    if not store.rows(f"SELECT 1 FROM errand WHERE {condition} LIMIT 1", parameters):
        return 0
    with store.write() as conn:
        rows = store.rows(f"SELECT * FROM errand WHERE {condition}", parameters)
        for row in rows:
            conn.execute(
                "UPDATE errand SET state = 'queued', owner = NULL, spent = spent + ?, error = coalesce(?, error) WHERE id = ?",
                (0 if error is None else spends, error, row["id"]),
            )
            group = group_of(*(row[name] for name in ("job", "job_attempt", "purpose", "batch", "version", "n", "attempt")))
            conn.execute(
                """
                UPDATE episode SET state = 'aborted', stop_reason = 'interrupted', error = ?, finished_at = ?,
                                   turns = (SELECT count(*) FROM turn t WHERE t.episode = episode.id)
                WHERE state = 'running' AND ("group" = ? OR substr("group", 1, length(?) + 1) IN (? || '-', ? || '/'))
                """,
                (error or "its player was stopped", time.time(), group, group, group, group),
            )
    return len(rows)


def _check_job(store: Store, lease: Lease) -> None:
    if not store.rows(f"SELECT 1 FROM errand WHERE id = ? AND {JOB_LIVES}", (lease.subject,)):
        raise LeaseLost(f"errand {lease.subject}: its job has ended or began anew; nothing was written")


def _key(lease: Lease) -> tuple[int, str, int]:
    return lease.subject, lease.owner, lease.attempt


def _errand(row: Any) -> Errand:
    return Errand(
        batch=row["batch"],
        n=row["n"],
        environment=row["environment"],
        seed=row["seed"],
        terms=ErrandTerms(
            version=row["version"],
            serving=row["serving"],
            purpose=row["purpose"],
            temperature=row["temperature"],
            samples=row["samples"],
        ),
        lease=Lease(subject=row["id"], owner=row["owner"], attempt=row["attempt"]),
        job=Lease(subject=row["job"], owner=row["job_owner"], attempt=row["job_attempt"]),
    )
