"""Leases: the right to write about one piece of work, for as long as its holder shows that it lives.

A lease names its owner and its attempt. Taking over work raises the attempt, and every write checks owner and attempt inside its own
transaction, so that a process which lost its lease, however slow or confused, writes nothing. Time runs on the boot-time clock: it goes on
while the machine sleeps and does not jump with the wall clock; after a reboot its `boot_id` differs and every lease has lapsed.

Leases of tasks, jobs and the device share their columns (`owner`, `attempt`, `lease_until`, `boot_id`), and so the functions here.
Tasks and jobs also end badly in the same way. When they are claimed stands with each of them (`tasks.py`, `jobs.py`, `processes.py`).
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

Leased = Literal["task", "job", "device"]

TTL_S = 120.0
"""How long a lease lasts if nobody renews it. Batches of turns extend the lease of their task; longer pauses need `renew`."""

RENEW_S = 10.0
"""How often a process that works for long renews its leases."""

FRESH = 0.75
"""A lease with this share of its time to go is not extended yet."""

ATTEMPT_CAP = 3
"""A task or job that has failed, or whose process has died, this often is not tried again."""

HELD = {"task": "state = 'leased'", "job": "state IN ('leased', 'running', 'gating')", "device": "owner IS NOT NULL"}
"""Which rows are under a lease."""


class Clock(Protocol):
    """A clock that nobody can set, and the boot that it counts from."""

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
    """Raise `LeaseLost` unless `lease` is still held. Call it inside the transaction that it is to protect."""
    held = store.rows(f"SELECT 1 FROM {kind} WHERE rowid = ? AND owner = ? AND attempt = ? AND {HELD[kind]}", _key(lease))
    if not held:
        raise _lost(store, kind, lease)


def renew(store: Store, kind: Leased, lease: Lease, ttl_s: float, clock: Clock) -> None:
    """Extend a lease that is still held, or raise `LeaseLost`.

    One that has run out but that nobody took is held still; one that was let lapse is not, so that a process that outlives its
    supervisor cannot keep work from the one that the next supervisor starts.
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
        if store.db.conn.execute(sql, (*_key(lease), until, boot)).fetchone() is None:
            renew(store, kind, lease, ttl_s, clock)


def lapse(store: Store, owner: str | None = None) -> int:
    """Let all leases of `owner` lapse at once, because it is known to be dead; without an owner, those of everybody.

    Whoever holds the lock of the home may do so when it starts, and when a child of its own has ended. Gives how many lapsed.
    """
    lapsed = 0
    with store.write() as conn:
        for kind, held in HELD.items():
            sql = f"UPDATE {kind} SET lease_until = -1 WHERE {held} AND (? IS NULL OR owner = ?)"
            lapsed += conn.execute(sql, (owner, owner)).rowcount
    return lapsed


def lapsed(clock: Clock) -> tuple[str, tuple[str, float]]:
    """The condition on a leased row, and its parameters, under which its lease has lapsed."""
    return "(boot_id <> ? OR lease_until < ?)", (clock.boot_id(), clock.now_s())


@cache
def _boot_id() -> str:
    if sys.platform == "linux":
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], check=True, capture_output=True, text=True, timeout=10).stdout.strip()


def end_badly(store: Store, kind: Literal["task", "job"], lease: Lease, error: str) -> None:
    """Queue work again that came to a bad end, or fail it for good after `ATTEMPT_CAP` of these. Raises `LeaseLost`."""
    with store.write():
        check(store, kind, lease)
        _end_badly(store, kind, error, "id = ?", (lease.subject,))


def take_back(store: Store, kind: Literal["task", "job"], clock: Clock, error: str) -> int:
    """The same for all work whose lease has lapsed. Gives how much that was."""
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
        now = "there is none of that number"
    elif (rows[0]["owner"], rows[0]["attempt"]) == (lease.owner, lease.attempt):
        now = "whoever took the home let it lapse"
    elif rows[0]["owner"] is None:
        now = f"nobody holds it now, after attempt {rows[0]['attempt']}"
    else:
        now = f"{rows[0]['owner']} holds it now, as attempt {rows[0]['attempt']}"
    return LeaseLost(f"{kind} {lease.subject}: {lease.owner} lost its lease (attempt {lease.attempt}; {now}); nothing was written")
