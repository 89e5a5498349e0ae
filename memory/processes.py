"""Processes of this home, events, the device lease, pauses and alarms.

Each process writes from time to time what it is doing, so that `status` can show why nothing happens. On a machine that is too slow to play
and learn at once, the holder of the device lease computes and the others wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from perdure.memory import leases
from perdure.memory.json_value import Document, record_json
from perdure.memory.leases import Clock
from perdure.memory.records import Lease
from perdure.memory.store import Store

DEVICE = "device"
START, CONFINEMENT, GIVEN_UP, GOES_ON, DISK, REJECTED = "start", "confinement", "given up", "goes on", "disk", "rejected"
"""Kinds of events: of a daemon, whether it confines environments, that it gave something up, that this is over, that it has no room or
has it again, and that a person rejected a version."""


CONFINED = "environments are confined: no capabilities, all files but their own read-only"
"""What a daemon says of that at its start, after the number of its process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What a process last wrote about itself."""

    name: str
    pid: int
    state: str
    detail: str | None
    beat: float
    started: float

    def as_json(self) -> Document:
        """The listing's keys."""
        return record_json(self, times=("beat", "started"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event worth knowing later: a death, a rollback, a verdict."""

    id: int
    kind: str
    subject: str
    message: str
    happened: float

    def as_json(self) -> Document:
        """The listing's keys."""
        return record_json(self, times=("happened",))


Pausable = Literal["play", "learning"]
AlarmName = Literal["cron", "every_minutes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """What a person has stopped."""

    what: Pausable
    reason: str
    paused: float

    def as_json(self) -> Document:
        """The listing's keys."""
        return record_json(self, times=("paused",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A set time of learning, as the last daemon read it from its settings. Times in Unix seconds."""

    name: AlarmName
    setting: str
    next: float
    """It has passed if it was missed, or if something else works."""
    rung: float | None = None

    def as_json(self) -> Document:
        """The listing's keys."""
        return record_json(self, times=("next", "rung"))


def beat(store: Store, name: str, pid: int, state: str, detail: str | None = None) -> None:
    """Write that process `name` is alive, and what it does. Another pid under the same name is a new start."""
    now = time.time()
    with store.write() as conn:
        conn.execute(
            """
            INSERT INTO process (name, pid, state, detail, beat_at, started_at) VALUES (?, ?, ?, ?, ?, ?)
            ON CONFLICT (name) DO UPDATE SET state = excluded.state, detail = excluded.detail, beat_at = excluded.beat_at,
                started_at = CASE WHEN pid = excluded.pid THEN started_at ELSE excluded.started_at END, pid = excluded.pid
            """,
            (name, pid, state, detail, now, now),
        )


def processes(store: Store) -> list[Process]:
    """Every process that ever wrote a beat, by name."""
    return [
        Process(
            name=row["name"],
            pid=row["pid"],
            state=row["state"],
            detail=row["detail"],
            beat=row["beat_at"],
            started=row["started_at"],
        )
        for row in store.rows("SELECT * FROM process ORDER BY name")
    ]


def process_of(store: Store, name: str, pid: int) -> Process | None:
    """The last beat of the process with this name and pid; None if it has not written one yet."""
    return next((process for process in processes(store) if (process.name, process.pid) == (name, pid)), None)


def forget_processes(store: Store, prefix: str, keep: int) -> None:
    """Delete the beats of processes named `prefix...`, except the newest `keep`."""
    with store.write() as conn:
        conn.execute(
            """
            DELETE FROM process WHERE substr(name, 1, length(:prefix)) = :prefix AND rowid NOT IN (
                SELECT rowid FROM process WHERE substr(name, 1, length(:prefix)) = :prefix ORDER BY rowid DESC LIMIT :keep)
            """,
            {"prefix": prefix, "keep": keep},
        )


def record_event(store: Store, kind: str, subject: str, message: str) -> None:
    """Write an event."""
    with store.write() as conn:
        sql = "INSERT INTO event (kind, subject, message, happened_at) VALUES (?, ?, ?, ?)"
        conn.execute(sql, (kind, subject, message, time.time()))


def keep_latest_events(store: Store, kind: str, keep: int) -> None:
    """Delete the events of a kind but for the latest `keep`."""
    sql = "DELETE FROM event WHERE kind = ? AND id NOT IN (SELECT id FROM event WHERE kind = ? ORDER BY id DESC LIMIT ?)"
    with store.write() as conn:
        conn.execute(sql, (kind, kind, keep))


def events(store: Store, limit: int = 50, *, before: int | None = None) -> list[Event]:
    """The latest events, latest first; only those with a lower number than `before`, if given."""
    sql = "SELECT * FROM event WHERE id < coalesce(?, 9223372036854775807) ORDER BY id DESC LIMIT ?"
    return [_event(row) for row in store.rows(sql, (before, max(limit, 0)))]


def events_of(store: Store, kinds: Sequence[str], limit: int) -> list[Event]:
    """The latest events of these kinds, latest first."""
    marks = ", ".join("?" * len(kinds))
    sql = f"SELECT * FROM event WHERE kind IN ({marks}) ORDER BY id DESC LIMIT ?"
    return [_event(row) for row in store.rows(sql, (*kinds, max(limit, 0)))]


def events_after(store: Store, event: int) -> list[Event]:
    """The events after the one of this number, oldest first."""
    return [_event(row) for row in store.rows("SELECT * FROM event WHERE id > ? ORDER BY id", (event,))]


def last_event_id(store: Store) -> int:
    """The number of the latest event; 0 if there is none."""
    return int(store.rows("SELECT coalesce(max(id), 0) AS id FROM event")[0]["id"])


def since_start(store: Store, *kinds: str) -> list[Event] | None:
    """The events of these kinds since a daemon last started, oldest first; None if none ever did."""
    start = last_event(store, START)
    if start is None:
        return None
    marks = ", ".join("?" * len(kinds))
    return [_event(row) for row in store.rows(f"SELECT * FROM event WHERE id > ? AND kind IN ({marks}) ORDER BY id", (start.id, *kinds))]


def last_event(store: Store, kind: str) -> Event | None:
    """The latest event of a kind; None if there is none."""
    rows = store.rows("SELECT * FROM event WHERE kind = ? ORDER BY id DESC LIMIT 1", (kind,))
    return _event(rows[0]) if rows else None


def events_since(store: Store, kind: str, other: str) -> int:
    """How many events of a kind came after the latest of another kind."""
    sql = "SELECT count(*) AS n FROM event WHERE kind = ? AND id > coalesce((SELECT max(id) FROM event WHERE kind = ?), 0)"
    return int(store.rows(sql, (kind, other))[0]["n"])


def pauses(store: Store) -> list[Pause]:
    """What is paused, by name."""
    rows = store.rows("SELECT * FROM pause ORDER BY what")
    return [Pause(what=row["what"], reason=row["reason"], paused=row["paused_at"]) for row in rows]


def pause(store: Store, what: Pausable, reason: str) -> None:
    """Pause it, or give the pause another reason."""
    sql = "INSERT INTO pause (what, reason, paused_at) VALUES (?, ?, ?) ON CONFLICT (what) DO UPDATE SET reason = excluded.reason"
    with store.write() as conn:
        conn.execute(sql, (what, reason, time.time()))
        record_event(store, "paused", what, reason)


def resume(store: Store, what: Pausable) -> bool:
    """End a pause; False if there was none."""
    with store.write() as conn:
        was = conn.execute("DELETE FROM pause WHERE what = ?", (what,)).rowcount == 1
        if was:
            record_event(store, "resumed", what, "by a person")
    return was


def alarms(store: Store) -> list[Alarm]:
    """The set times, by name."""
    rows = store.rows("SELECT * FROM alarm ORDER BY name")
    return [Alarm(name=row["name"], setting=row["setting"], next=row["next_at"], rung=row["rung_at"]) for row in rows]


def set_alarms(store: Store, alarms: Iterable[Alarm]) -> None:
    """Replace them all."""
    with store.write() as conn:
        conn.execute("DELETE FROM alarm")
        sql = "INSERT INTO alarm (name, setting, next_at, rung_at) VALUES (?, ?, ?, ?)"
        conn.executemany(sql, [(one.name, one.setting, one.next, one.rung) for one in alarms])


def take_device(store: Store, owner: str, ttl_s: float, clock: Clock) -> Lease | None:
    """Lease the device if it is free or its lease has lapsed; None if it is taken."""
    condition, parameters = leases.lapsed(clock)
    with store.write() as conn:
        conn.execute("INSERT INTO device (name) VALUES (?) ON CONFLICT (name) DO NOTHING", (DEVICE,))
        rows = store.rows(
            f"""
            UPDATE device SET owner = ?, attempt = attempt + 1, lease_until = ?, boot_id = ?
            WHERE name = ? AND (owner IS NULL OR {condition}) RETURNING rowid AS id, attempt
            """,
            (owner, clock.now_s() + ttl_s, clock.boot_id(), DEVICE, *parameters),
        )
    return Lease(subject=rows[0]["id"], owner=owner, attempt=rows[0]["attempt"]) if rows else None


def renew_device(store: Store, lease: Lease, ttl_s: float, clock: Clock) -> None:
    """Renew the lease, or raise `LeaseLost`."""
    leases.renew(store, "device", lease, ttl_s, clock)


def release_device(store: Store, lease: Lease) -> None:
    """Free the device. Does nothing if another process has it already."""
    with store.write() as conn:
        conn.execute(
            "UPDATE device SET owner = NULL WHERE rowid = ? AND owner = ? AND attempt = ?",
            (lease.subject, lease.owner, lease.attempt),
        )


def device_owner(store: Store, clock: Clock) -> str | None:
    """The name of the process that has the device; None if it is free."""
    condition, parameters = leases.lapsed(clock)
    rows = store.rows(f"SELECT owner FROM device WHERE name = ? AND owner IS NOT NULL AND NOT {condition}", (DEVICE, *parameters))
    return str(rows[0]["owner"]) if rows else None


def precision_for(store: Store, device: str, measure: Callable[[], str]) -> str:
    """The precision that this home computes with on a device: measured the first time, the same from then on."""
    with store.write() as conn:
        rows = store.rows("SELECT dtype FROM precision WHERE device = ?", (device,))
        if not rows:
            conn.execute("INSERT INTO precision (device, dtype) VALUES (?, ?)", (device, measure()))
            return precision_for(store, device, measure)
    return str(rows[0]["dtype"])


def home_began(store: Store) -> float:
    """When the first thing was written to this home that stays in it, as Unix seconds; now, if there is none yet."""
    [row] = store.rows(
        """
        SELECT min(at) AS began FROM (
            SELECT min(registered_at) AS at FROM environment UNION ALL SELECT min(created_at) FROM task
            UNION ALL SELECT min(created_at) FROM job UNION ALL SELECT min(created_at) FROM version
        )
        """
    )
    return time.time() if row["began"] is None else float(row["began"])


def _event(row: Any) -> Event:
    return Event(id=row["id"], kind=row["kind"], subject=row["subject"], message=row["message"], happened=row["happened_at"])
