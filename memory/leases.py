"""Leases: the right to write about one piece of work, as long as its owner renews it.

A lease names its owner and its attempt. Taking over work raises the attempt, and every write checks owner and attempt inside its own
transaction, so that a process that has lost its lease writes nothing. Time is the boot-time clock: it includes sleep and does not jump with
the wall clock. After a reboot the `boot_id` differs, and every lease has lapsed.

Tasks, jobs, errands and the device have the same lease columns (`owner`, `attempt`, `lease_until`, `boot_id`) and share these functions.
Left out: claiming them (`tasks.py`, `jobs.py`, `errands/errand_leases.py`, `processes.py`).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from perdure.memory.errors import LeaseLost
from perdure.memory.records import Lease
from perdure.memory.store import Store

Leased = Literal["task", "job", "errand", "device"]

TTL_S = 120.0
"""How long a lease lasts if nobody renews it. Batches of turns extend the lease of their task; longer pauses need `renew`."""

RENEW_S = 10.0
"""How often a process that works for long renews its leases."""

FRESH = 0.75
"""A lease that has at least this share of its time left is not renewed yet."""

ATTEMPT_CAP = 3
"""A task or job that has failed, or whose process has died, this often is not tried again."""

HELD = {
    "task": "state = 'leased'",
    "job": "state IN ('leased', 'running', 'gating')",
    "errand": "state = 'leased'",
    "device": "owner IS NOT NULL",
}
"""The condition on rows that are leased."""


class Clock(Protocol):
    """A clock that cannot be set, and the boot that it counts from."""

    def now_s(self) -> float: ...

    def boot_id(self) -> str: ...


class BootClock:
    """The clock of this machine since it started, sleep included."""

    def now_s(self) -> float:
        if sys.platform == "linux":
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.monotonic()

    def boot_id(self) -> str:
        return _boot_id()


def check(store: Store, kind: Leased, lease: Lease) -> None:
    """Raise `LeaseLost` unless `lease` is still held. Call it inside the transaction that it protects."""
    held = store.rows(f"SELECT 1 FROM {kind} WHERE rowid = ? AND owner = ? AND attempt = ? AND {HELD[kind]}", _key(lease))
    if not held:
        raise _lost(store, kind, lease)


def renew(store: Store, kind: Leased, lease: Lease, ttl_s: float, clock: Clock) -> None:
    """Renew a lease that is still held, or raise `LeaseLost`.

    A lease that has run out is still held until another process takes it. One that `end_leases_of` or `end_all_leases` ended is not: a
    process that outlives its supervisor must not block the process that the next supervisor starts.
    """
    held = f"rowid = ? AND owner = ? AND attempt = ? AND {HELD[kind]} AND lease_until >= 0"
    sql = f"UPDATE {kind} SET lease_until = ?, boot_id = ? WHERE {held}"
    with store.write() as conn:
        if conn.execute(sql, (clock.now_s() + ttl_s, clock.boot_id(), *_key(lease))).rowcount != 1:
            raise _lost(store, kind, lease)


def check_and_renew(store: Store, kind: Leased, held: Iterable[Lease], ttl_s: float, clock: Clock) -> None:
    """Raise `LeaseLost` unless all these leases are still held. Call it inside the transaction that it protects.

    Renews those with less than `FRESH` of `ttl_s` left: reading is cheaper than writing.
    """
    sql = f"SELECT 1 FROM {kind} WHERE rowid = ? AND owner = ? AND attempt = ? AND {HELD[kind]} AND lease_until >= ? AND boot_id = ?"
    until, boot = clock.now_s() + FRESH * ttl_s, clock.boot_id()
    for lease in held:
        if store.conn.execute(sql, (*_key(lease), until, boot)).fetchone() is None:
            renew(store, kind, lease, ttl_s, clock)


def end_leases_of(store: Store, owner: str) -> int:
    """End all leases of a process that has ended. Returns how many. Only for the holder of the home's lock."""
    return _end_leases(store, "owner = ?", (owner,))


def end_all_leases(store: Store) -> int:
    """End the leases of all processes, because all have ended. Returns how many. Only for the holder of the home's lock, when it starts."""
    return _end_leases(store, "TRUE", ())


def _end_leases(store: Store, condition: str, parameters: Sequence[Any]) -> int:
    with store.write() as conn:
        sql = "UPDATE {} SET lease_until = -1 WHERE {} AND {}"
        return sum(conn.execute(sql.format(kind, held, condition), parameters).rowcount for kind, held in HELD.items())


def lapsed(clock: Clock) -> tuple[str, tuple[str, float]]:
    """The SQL condition that the lease of a row has lapsed, and its parameters."""
    return "(boot_id <> ? OR lease_until < ?)", (clock.boot_id(), clock.now_s())


@cache
def _boot_id() -> str:
    if sys.platform == "linux":
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], check=True, capture_output=True, text=True, timeout=10).stdout.strip()


def fail_attempt(store: Store, kind: Literal["task", "job"], lease: Lease, error: str) -> None:
    """Queue failed work again, or fail it for good after `ATTEMPT_CAP` failures. Raises `LeaseLost`."""
    with store.write():
        check(store, kind, lease)
        _end_badly(store, kind, error, "id = ?", (lease.subject,))


def requeue_lapsed(store: Store, kind: Literal["task", "job"], clock: Clock, error: str) -> int:
    """Queue again, or fail, all work whose lease has lapsed. Returns the number of tasks or jobs."""
    condition, parameters = lapsed(clock)
    return _end_badly(store, kind, error, f"{HELD[kind]} AND {condition}", parameters)


def _end_badly(store: Store, kind: Literal["task", "job"], error: str, condition: str, parameters: Sequence[Any]) -> int:
    with store.write() as conn:
        return conn.execute(
            f"""
            UPDATE {kind} SET
                spent = spent + 1, owner = NULL,
                state = CASE WHEN spent + 1 >= ? THEN 'failed' ELSE 'queued' END,
                finished_at = CASE WHEN spent + 1 >= ? THEN ? END,
                error = ?
            WHERE {condition}
            """,
            (ATTEMPT_CAP, ATTEMPT_CAP, time.time(), error, *parameters),
        ).rowcount


def _key(lease: Lease) -> tuple[int, str, int]:
    return lease.subject, lease.owner, lease.attempt


def _lost(store: Store, kind: Leased, lease: Lease) -> LeaseLost:
    rows = store.rows(f"SELECT owner, attempt FROM {kind} WHERE rowid = ?", (lease.subject,))
    if not rows:
        now = f"there is no such {kind}"
    elif (rows[0]["owner"], rows[0]["attempt"]) == (lease.owner, lease.attempt):
        now = "the supervisor of this home ended it"
    elif rows[0]["owner"] is None:
        now = f"nobody holds it now, after attempt {rows[0]['attempt']}"
    else:
        now = f"{rows[0]['owner']} holds it now, as attempt {rows[0]['attempt']}"
    return LeaseLost(f"{kind} {lease.subject}: {lease.owner} lost its lease (attempt {lease.attempt}; {now}); nothing was written")
