"""What a person may want to hear of: a promotion, a rejection, a rollback, that something was given up, or that the disk is low.

Promotions and rollbacks are read from the moves in the store, and what a person rejects from its events, whichever process wrote them.
Left out: how it is sent (`delivery.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perdure.agent.show.terminal import visible
from perdure.agent.telemetry.telemetry_settings import Notable
from perdure.memory.contracts.orders import Job
from perdure.memory.json_value import Document, iso_utc, to_json
from perdure.memory.processes import GIVEN_UP, REJECTED
from perdure.memory.store import Store

REASON_CHARACTERS = 2000
"""A longer reason is cut."""

EVENTS: dict[str, Notable] = {GIVEN_UP: "give-up", REJECTED: "reject"}
"""By the kind of the event in the store. What a job rejects is no event: it ends with a verdict."""

TEXTS: dict[Notable, str] = {
    "promote": "{version} was promoted",
    "reject": "{version} was rejected",
    "rollback": "rolled back to {version}",
    "give-up": "{version} was given up",
    "disk-low": "the disk is low: {version} waits",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One of them."""

    key: str
    """The same each time that it is sent, so that a receiver can tell a repeat."""
    event: Notable
    subject: str
    """The version; or what was given up, or what waits for room."""
    reason: str
    at: float
    """In Unix seconds."""

    def payload(self, home: Path) -> bytes:
        """As JSON, in UTF-8. `text` says all of it in one line, as chat services show it."""
        reason = " ".join(visible(self.reason).split())
        reason = reason if len(reason) <= REASON_CHARACTERS else reason[: REASON_CHARACTERS - 3] + "..."
        document: Document = {
            "event": self.event,
            "id": self.key,
            "home": str(home),
            "version": self.subject if self.event in ("promote", "reject", "rollback") else None,
            "subject": self.subject,
            "reason": reason,
            "time": iso_utc(self.at),
            "text": f"perdure: {TEXTS[self.event].format(version=self.subject)}: {reason}",
        }
        return to_json(document).encode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The last rows that have been looked at."""

    move: int = 0
    event: int = 0


def seen_now(store: Store) -> Seen:
    """The present end of the store: what comes after it is news."""
    [row] = store.rows("SELECT (SELECT max(id) FROM move) AS move, (SELECT max(id) FROM event) AS event")
    return Seen(move=row["move"] or 0, event=row["event"] or 0)


def news(store: Store, seen: Seen) -> tuple[list[Happening], Seen]:
    """What has been written since, and where it ends now."""
    with store.read():
        now = seen_now(store)
        moves = store.rows("SELECT * FROM move WHERE id > ? AND kind IN ('promote', 'rollback') ORDER BY id", (seen.move,))
        told = store.rows("SELECT * FROM event WHERE id > ? AND kind IN (?, ?) ORDER BY id", (seen.event, *EVENTS))
    found = [
        Happening(
            key=f"move-{row['id']}",
            event="promote" if row["kind"] == "promote" else "rollback",
            subject=row["to_version"],
            reason=f"{row['reason']} (before: {row['from_version']})",
            at=row["moved_at"],
        )
        for row in moves
    ]
    found += [
        Happening(key=f"event-{row['id']}", event=EVENTS[row["kind"]], subject=row["subject"], reason=row["message"], at=row["happened_at"])
        for row in told
    ]
    return found, now


def rejection(job: Job) -> Happening | None:
    """The rejection that a job ended with; None if it ended otherwise."""
    gate = job.gate
    if gate is None or gate.verdict != "reject":
        return None
    return Happening(key=f"gate-{gate.gate}", event="reject", subject=gate.candidate, reason=gate.reason, at=time.time())


def lack_of_room(waits: Sequence[tuple[str, str]]) -> list[Happening]:
    """`waits`: what has begun to wait for room, and why."""
    now = time.time()
    return [Happening(key=f"disk-{what}-{now:.0f}", event="disk-low", subject=what, reason=why, at=now) for what, why in waits]
