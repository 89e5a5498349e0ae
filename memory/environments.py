"""Registered environments, and the anchor of each: the version that holds its high-water mark."""

from __future__ import annotations

import time
from dataclasses import dataclass

from perdure.memory.errors import Conflict, InputError, Unavailable, UnknownError
from perdure.memory.json_value import Document, iso_utc
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.processes import record_event
from perdure.memory.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """An environment as the store knows it."""

    name: str
    """With its options: success rates and anchors belong to this whole string."""
    threshold: float
    """The return that counts as success, if the environment does not say itself."""
    reward_low: float
    reward_high: float
    critical: bool
    """The gate uses its tighter margin for it."""
    anchor: str | None
    """Set by a promotion; `anchor_of` also finds the anchor of an environment that was never trained on."""
    registered: float
    changed_at: float | None = None
    """When it was found to have changed, in Unix seconds; None if it never was."""
    changed_gate: int | None = None
    """The gate that showed it; None if its code changed, or if it never changed."""
    chance: float | None = None
    """The share of tasks that a constant or a random answer solves; None: not known."""
    oracle: bool | None = None
    """Whether it has an `oracle()`; None: not known."""
    retired: float | None = None
    """Since when it is out of play, replay and gate, in Unix seconds; None if it is in use."""
    first_gate: int = 0
    """Scores and pairs of gates before this one say nothing of this environment any more."""
    code: str | None = None
    """What its code was when it was loaded last (`envs/source_code.py`); None: not known."""

    def as_json(self) -> Document:
        """The listing's keys."""
        return {
            "name": self.name,
            "threshold": self.threshold,
            "reward_low": self.reward_low,
            "reward_high": self.reward_high,
            "critical": self.critical,
            "anchor": self.anchor,
            "retired": None if self.retired is None else iso_utc(self.retired),
            "code": self.code,
            "changed": None if self.changed_at is None else iso_utc(self.changed_at),
        }


def register(
    store: Store,
    name: str,
    threshold: float = 1.0,
    reward_low: float = 0.0,
    reward_high: float = 1.0,
    critical: bool = False,
    code: str | None = None,
) -> None:
    """Register an environment. Registering it again replaces its settings; its anchor and its code stay (`note_code`)."""
    if not name.strip():
        raise InputError("an environment needs a name, such as 'perdure:largest-number'")
    if not reward_low < reward_high:
        raise InputError(f"{name}: its rewards go from {reward_low} to {reward_high}; the low end must be below the high end")
    with store.write() as conn:
        conn.execute(
            """
            INSERT INTO environment (name, threshold, reward_low, reward_high, critical, registered_at, code) VALUES (?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (name) DO UPDATE SET threshold = excluded.threshold, reward_low = excluded.reward_low,
                reward_high = excluded.reward_high, critical = excluded.critical
            """,
            (name, float(threshold), float(reward_low), float(reward_high), int(critical), time.time(), code),
        )


def set_measured(store: Store, name: str, chance: float | None, oracle: bool | None) -> None:
    """Keep what was measured of an environment without the model when it was registered."""
    with store.write() as conn:
        conn.execute("UPDATE environment SET chance = ?, oracle = ? WHERE name = ?", (chance, oracle, name))


def list_environments(store: Store) -> list[Registration]:
    """All environments, oldest first, also those that are retired."""
    rows = store.rows("SELECT * FROM environment ORDER BY rowid")
    return [
        Registration(
            name=row["name"],
            threshold=row["threshold"],
            reward_low=row["reward_low"],
            reward_high=row["reward_high"],
            critical=bool(row["critical"]),
            anchor=row["anchor"],
            registered=row["registered_at"],
            changed_at=row["changed_at"],
            changed_gate=row["changed_gate"],
            chance=row["chance"],
            oracle=None if row["oracle"] is None else bool(row["oracle"]),
            retired=row["retired_at"],
            first_gate=row["first_gate"],
            code=row["code"],
        )
        for row in rows
    ]


def environments_in_use(store: Store) -> list[Registration]:
    """Those that are played, replayed and judged, oldest first: all but the retired ones."""
    return [row for row in list_environments(store) if row.retired is None]


def retire(store: Store, name: str) -> int:
    """Take an environment out of play, replay and gate. Its history stays, and its anchor. Its queued tasks fail; gives how many those are.

    Raises `UnknownError`, and `Conflict` if it is retired already.
    """
    with store.write() as conn:
        require(store, name)
        if conn.execute("UPDATE environment SET retired_at = ? WHERE name = ? AND retired_at IS NULL", (time.time(), name)).rowcount == 0:
            raise Conflict(f"{name} is retired already: `perdure env restore` brings it back")
        sql = "UPDATE task SET state = 'failed', error = ?, finished_at = ? WHERE environment = ? AND state = 'queued'"
        return conn.execute(sql, ("its environment was retired", time.time(), name)).rowcount


def restore(store: Store, name: str) -> None:
    """Bring a retired environment back, with the anchor that it had. Raises `UnknownError`, and `Conflict` if it is in use."""
    with store.write() as conn:
        require(store, name)
        if conn.execute("UPDATE environment SET retired_at = NULL WHERE name = ? AND retired_at IS NOT NULL", (name,)).rowcount == 0:
            raise Conflict(f"{name} is not retired: nothing was changed")


def require(store: Store, name: str) -> None:
    """Raise `UnknownError` if no environment of that name is registered."""
    if not store.rows("SELECT 1 FROM environment WHERE name = ?", (name,)):
        known = ", ".join(row["name"] for row in store.rows("SELECT name FROM environment ORDER BY name LIMIT 8"))
        raise UnknownError(f"no environment {name[:200]!r} in this home; it has {known or 'none yet'}")


def require_in_use(store: Store, name: str) -> None:
    """Raise `UnknownError` if no environment of that name is registered, and `InputError` if it is retired."""
    require(store, name)
    refuse_retired(store, name)


def refuse_retired(store: Store, name: str) -> None:
    """Raise `InputError` if this environment is retired; not if it is unknown."""
    if store.rows("SELECT 1 FROM environment WHERE name = ? AND retired_at IS NOT NULL", (name,)):
        raise InputError(f"{name} is retired: `perdure env restore` brings it back")


def anchor_of(store: Store, environment: str) -> str | None:
    """The version that the gate compares with: the one set by a promotion, else the one that served when the environment was added.

    An environment that was registered before any version served has the first version that did. None only if the home has no version.
    """
    require(store, environment)
    rows = store.rows(
        """
        SELECT coalesce(
            e.anchor,
            (SELECT m.to_version FROM move m WHERE m.moved_at <= e.registered_at ORDER BY m.id DESC LIMIT 1),
            (SELECT m.to_version FROM move m ORDER BY m.id LIMIT 1)
        ) AS anchor
        FROM environment e WHERE e.name = ?
        """,
        (environment,),
    )
    anchor: str | None = rows[0]["anchor"]
    return anchor


def mark_changed(store: Store, environment: str, gate: int, anchor: str) -> None:
    """Write down that an environment has changed, as this gate showed. What was measured before does not count any more.

    Its anchor begins anew with `anchor`, and its dev scores and success rates with what is played from now on.
    """
    with store.write() as conn:
        require(store, environment)
        _begin_anew(conn, environment, anchor, changed_gate=gate, first_gate=gate)


def note_code(store: Store, environment: str, code: str | None) -> bool:
    """Take note of the code that an environment was loaded with just now; gives whether it is another one than before.

    If it is, what was measured before does not count any more, its anchor begins anew with the version that serves, and an event says so.
    An environment that the home does not know, and a code that is not known, change nothing.
    """
    if not code or code_of_environment(store, environment) == code:
        return False
    with store.write() as conn:
        before = code_of_environment(store, environment)  # read again in the transaction
        if before is None:
            conn.execute("UPDATE environment SET code = ? WHERE name = ?", (code, environment))
        if before in (None, code):
            return False
        old = anchor_of(store, environment)
        serves = next((row["name"] for row in store.rows("SELECT name FROM version WHERE state = 'serving'")), None)
        (last,) = conn.execute("SELECT coalesce(max(id), 0) FROM gate").fetchone()
        _begin_anew(conn, environment, serves, changed_gate=None, first_gate=last + 1)
        conn.execute("UPDATE environment SET code = ? WHERE name = ?", (code, environment))
        conn.execute("DELETE FROM watch WHERE environment = ?", (environment,))
        former = f" ({old} was before)" if old not in (None, serves) else ""
        anchor = "" if serves is None else f": {serves} is its anchor from now on{former}"
        line = f"its code has changed ({before}, now {code}){anchor}; its earlier scores count no more"
        record_event(store, "changed", environment, line)
        return True


def check_code(store: Store, environment: str, code: str | None) -> None:
    """Raise `Unavailable` if another process has loaded another code of this environment since this one was loaded.

    A code that is the first to be known of it is noted.
    """
    known = code_of_environment(store, environment)
    if not code or known == code:
        return
    if known is None:
        note_code(store, environment, code)
        return
    raise Unavailable(f"the code of {environment} has changed since this process loaded it: it is played no more until it is loaded anew")


def code_of_environment(store: Store, name: str) -> str | None:
    """What the code of an environment was when it was loaded last; None if that is not known, or if the home does not know it."""
    return next((row["code"] for row in store.rows("SELECT code FROM environment WHERE name = ?", (name,))), None)


def _begin_anew(conn: sqlite3.Connection, environment: str, anchor: str | None, *, changed_gate: int | None, first_gate: int) -> None:
    """What was measured of an environment before does not count any more, and `anchor` is its anchor."""
    sql = "UPDATE environment SET changed_at = ?, changed_gate = ?, first_gate = ?, anchor = ? WHERE name = ?"
    conn.execute(sql, (time.time(), changed_gate, first_gate, anchor, environment))
    conn.execute("DELETE FROM dev_score WHERE environment = ?", (environment,))
    conn.execute("DELETE FROM rate WHERE environment = ?", (environment,))
