"""Digests of rows: each row of the store has one, written with it, so that `perdure store check` finds a value changed on the disk.

A digest is sha256, cut to 16 bytes, over the canonical form of the row's columns in the order of the table, without the digest itself.
An integer is `i12;`, a real number `f` and its 8 bytes (little-endian, -0.0 as 0.0, as SQLite stores it), a text `t5:` and its UTF-8, a
blob the same with its bytes, NULL `n`. (blake2b takes twice the time on processors that have instructions for sha256.)

They are chained: a turn's covers that of the turn before it, an episode's that of its last turn once it has ended, and a gate's those of
its pairs once it has a verdict. The journal computes those of turns, which are many and large; triggers compute all others, so that no
writer can forget them. Turns from before there were digests have none of their own: that of their episode covers them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from typing import Any

from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]  # pysqlite3 if it is installed

Value = int | float | str | bytes | None

SIZE = 16
"""Bytes of a digest."""

TURN = (
    "episode, n, shared, prompt_ids, action_ids, logprobs, observation, action, invalid, reward, finish, version, step_job, step_n, made_at"
)
"""The columns of a turn; its digest covers them and then that of the turn before it."""


def _given(columns: str) -> str:
    """Columns as arguments of our functions: texts as blobs, because some builds of SQLite's module end a text at its first NUL."""
    return ", ".join(f"iif(typeof({name}) = 'text', CAST({name} AS BLOB), {name})" for name in columns.split(", "))


ALSO = {
    "episode": f"""CASE state WHEN 'running' THEN NULL ELSE coalesce(
        (SELECT t.digest FROM turn t WHERE t.episode = episode.id ORDER BY t.n DESC LIMIT 1),
        (SELECT turn_chain({_given(TURN)}) FROM (SELECT * FROM turn t WHERE t.episode = episode.id ORDER BY t.n))) END""",
    "gate": """CASE WHEN verdict IS NOT NULL THEN (SELECT group_concat(hex(digest)) FROM
        (SELECT p.digest FROM pair p WHERE p.gate = gate.id ORDER BY p.environment, p.role, p.draw)) END""",
}
"""What a digest covers beside the columns of its row."""

KEYS = {
    "step": ("job", "attempt", "n"),
    "reward": ("episode", "source"),
    "rate": ("version", "environment"),
    "manifest": ("job", "attempt", "n", "episode"),
    "pair": ("gate", "environment", "role", "draw"),
    "dev_score": ("version", "environment", "temperature"),
    "watch": ("version", "environment"),
    "panel_score": ("version", "skill", "item", "measure"),
}
"""The keys of tables without row ids."""


def canonical(values: Sequence[Value]) -> bytes:
    """The canonical form of values: two different rows never have the same."""
    parts: list[bytes] = []
    add = parts.append
    for value in values:
        if value is None:
            add(b"n")
        elif isinstance(value, bytes):
            add(b"t%d:%b" % (len(value), value))
        elif isinstance(value, str):
            text = value.encode("utf-8", "surrogateescape")
            add(b"t%d:%b" % (len(text), text))
        elif isinstance(value, int):
            add(b"i%d;" % value)
        else:
            add(b"f" + _REAL(value + 0.0))
    return b"".join(parts)


def turn_digest(columns: Sequence[Any], before: bytes | None) -> bytes:
    """The digest of a turn, given as its columns `TURN`, and that of the turn before it: `digest_of` of both, in half the time."""
    try:
        return sha256(_turn_form(columns, before)).digest()[:SIZE]
    except (TypeError, AttributeError, struct.error):  # a value of another type, as only damage makes it
        return digest_of((*columns, before))


def _turn_form(columns: Sequence[Any], before: bytes | None) -> bytes:
    episode, n, shared, prompt_ids, action_ids, logprobs, observation, action, invalid, reward, *sampled, made_at = columns
    texts = observation.encode("utf-8", "surrogateescape"), action.encode("utf-8", "surrogateescape")
    return b"i%d;i%d;i%d;t%d:%bt%d:%bt%d:%bt%d:%bt%d:%b%bf%b%bf%b%b" % (
        episode,
        n,
        shared,
        len(prompt_ids),
        prompt_ids,
        len(action_ids),
        action_ids,
        len(logprobs),
        logprobs,
        len(texts[0]),
        texts[0],
        len(texts[1]),
        texts[1],
        b"n" if invalid is None else canonical((invalid,)),
        _REAL(reward + 0.0),
        _sampled(*sampled),
        _REAL(made_at),
        b"n" if before is None else b"t16:%b" % before,
    )


@contextmanager
def raw_texts(conn: sqlite3.Connection) -> Iterator[None]:
    """Read texts that are no UTF-8, as after a flipped bit, with those bytes as lone surrogates: `digest_of` makes them bytes again."""
    before = conn.text_factory
    conn.text_factory = _text
    try:
        yield
    finally:
        conn.text_factory = before


def digest_of(values: Sequence[Value]) -> bytes:
    """The digest of a row. Bytes of a text that are no UTF-8 are given as lone surrogates (`surrogateescape`)."""
    return sha256(canonical(values)).digest()[:SIZE]


def register_digests(conn: sqlite3.Connection) -> None:
    """Register the SQL function `row_digest(...)` and the aggregate `turn_chain(...)`, which the triggers call.

    `turn_chain` takes the columns `TURN` of an episode's turns, in their order, and gives the digest of the last.
    """
    conn.create_function("row_digest", -1, lambda *values: digest_of(values), deterministic=True)
    conn.create_aggregate("turn_chain", -1, _TurnChain)  # type: ignore[arg-type]  # typeshed knows one argument only


def sealed(table: str, columns: str) -> str:
    """The SQL that seals the rows of a table, and makes the triggers which write their digests in place of those that it has.

    `columns` are all columns of the table in its order, without `digest`.
    """
    seal = f"UPDATE {table} SET digest = row_digest({_given(columns)}{', ' + ALSO[table] if table in ALSO else ''})"
    this_row = " AND ".join(f"{name} = NEW.{name}" for name in KEYS.get(table, ("rowid",)))
    return f"""
DROP TRIGGER IF EXISTS {table}_digest_new;
DROP TRIGGER IF EXISTS {table}_digest_again;
{seal};
CREATE TRIGGER {table}_digest_new AFTER INSERT ON {table} BEGIN {seal} WHERE {this_row}; END;
CREATE TRIGGER {table}_digest_again AFTER UPDATE OF {columns} ON {table} BEGIN {seal} WHERE {this_row}; END;
"""


def with_digests(**tables: str) -> str:
    """The SQL that adds digests to tables, given with all of their columns. Turns are not sealed: the journal does that."""
    added = "".join(f"ALTER TABLE {table} ADD COLUMN digest BLOB;\n" for table in tables)
    return added + "".join(sealed(table, columns) for table, columns in tables.items() if table != "turn")


@lru_cache
def _sampled(finish: str, version: str | None, step_job: int | None, step_n: int | None) -> bytes:
    return canonical((finish, version, step_job, step_n))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


class _TurnChain:
    def __init__(self) -> None:
        self._last: bytes | None = None

    def step(self, *values: Value) -> None:
        self._last = turn_digest(values, self._last)

    def finalize(self) -> bytes | None:
        return self._last


_REAL: Callable[[float], bytes] = struct.Struct("<d").pack
