"""The changes that persons make, each with who made it, what it was and why: the audit trail.

`perform` makes a change and writes its row in one transaction: there is never one without the other. A change may come with a key. The same
key with the same request gives the answer of the first time and changes nothing, so that a request whose answer got lost can be repeated.
Left out: which changes there are (`agent/changes/`), and what the runtime does by itself, which is in the event log.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from perdure.memory import faults
from perdure.memory.errors import Conflict, InputError
from perdure.memory.json_value import Document, iso_utc, storable, to_json
from perdure.memory.store import Store, reading_row

Via = Literal["command", "api", "page"]
Answer = TypeVar("Answer", Document, list[Document])
"""What a change answers: the document that the command of the same name prints with `--json`."""

MOST_REASON = 2_000
"""Characters of a reason."""
MOST_NAME = 100
"""Characters of a person's name."""
KEY = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """A person, and the way by which the change comes."""

    name: str
    via: Via


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeChange:
    """A change that a person made."""

    id: int
    key: str | None
    who: str
    via: Via
    what: str
    subject: str
    arguments: Document
    reason: str | None
    made: float

    def as_json(self) -> Document:
        """The listing's keys."""
        return {
            "id": self.id,
            "made": iso_utc(self.made),
            "who": self.who,
            "via": self.via,
            "what": self.what,
            "subject": self.subject,
            "reason": self.reason,
            "arguments": self.arguments,
            "key": self.key,
        }


def perform(
    store: Store,
    change: Callable[[], tuple[str, Answer]],
    *,
    by: Who,
    what: str,
    arguments: Document,
    reason: str | None = None,
    key: str | None = None,
) -> Answer:
    """Make a change and write it down, both or neither; gives its answer. `change` makes it, and gives its subject and its answer.

    `arguments` are those of the request, of which JSON can be made. If the key is that of an earlier change, `change` is not called.
    Raises `InputError` for a reason, key or name that cannot be kept, `Conflict` if the key stands for another request, and what `change`
    raises; nothing is changed then.
    """
    check_words(by, reason, key)
    with store.write() as conn:
        earlier: Answer | None = answer_of(store, key, what=what, arguments=arguments, reason=reason)
        if earlier is not None:
            return earlier
        subject, answer = change()
        faults.point("mid-change")
        conn.execute(
            """
            INSERT INTO change (key, who, via, what, subject, arguments, reason, answer, made_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            (key, by.name, by.via, what, subject, to_json(arguments), reason, None if key is None else to_json(answer), time.time()),
        )
    return answer


def answer_of(store: Store, key: str | None, *, what: str, arguments: Document, reason: str | None = None) -> Any:
    """The answer that a change of this key got; None if there was none. Raises `Conflict` if the key stands for another request."""
    if key is None:
        return None
    _check_key(key)
    rows = store.rows("SELECT * FROM change WHERE key = ?", (key,))
    if not rows:
        return None
    with reading_row(f"change {rows[0]['id']}"):
        row = rows[0]
        asked = (what, json.loads(to_json(arguments)), reason)
        if (row["what"], json.loads(row["arguments"]), row["reason"]) != asked:
            what_else = f"{row['what']} {row['subject'][:80]}"
            raise Conflict(f"the key {key!r} stands for change {row['id']}, {what_else}: give each change a key of its own")
        return json.loads(row["answer"])


def list_changes(store: Store, limit: int = 50, before: int | None = None) -> list[MadeChange]:
    """The newest changes, newest first; with `before` those with a lower number."""
    rows = store.rows(
        "SELECT * FROM change WHERE id < ? ORDER BY id DESC LIMIT ?", (2**63 - 1 if before is None else before, max(limit, 0))
    )
    return [_change(row) for row in rows]


def changes_after(store: Store, change: int) -> list[MadeChange]:
    """The changes after the one of this number, oldest first."""
    return [_change(row) for row in store.rows("SELECT * FROM change WHERE id > ? ORDER BY id", (change,))]


def check_words(by: Who, reason: str | None = None, key: str | None = None) -> None:
    """Raise `InputError` if one of these cannot be kept in the table."""
    if not by.name.strip() or len(by.name) > MOST_NAME or storable(by.name) != by.name:
        raise InputError(f"{by.name[:MOST_NAME]!r} is no name of a person: give at most {MOST_NAME} characters")
    if reason is not None:
        check_reason(reason)
    if key is not None:
        _check_key(key)


def check_reason(reason: str) -> None:
    """Raise `InputError` if a reason is empty, too long, or no text."""
    if not reason.strip():
        raise InputError("the reason is empty: say why with --reason, in a few words")
    if len(reason) > MOST_REASON:
        raise InputError(f"the reason has {len(reason)} characters: {MOST_REASON} at most are kept")
    if storable(reason) != reason or "\0" in reason:
        raise InputError("the reason is not valid Unicode text: write it anew")


def _check_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise InputError(f"{key[:40]!r} is no key: give 1 to 200 letters, digits and signs of ASCII, without blanks")


def _change(row: Any) -> MadeChange:
    with reading_row(f"change {row['id']}"):
        return MadeChange(
            id=row["id"],
            key=row["key"],
            who=row["who"],
            via=row["via"],
            what=row["what"],
            subject=row["subject"],
            arguments=json.loads(row["arguments"]),
            reason=row["reason"],
            made=row["made_at"],
        )
