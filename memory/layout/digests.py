"""Digests of rows: each row of the store has one, written with it, so that `perdure store check` finds a value changed on the disk.

A digest is sha256, cut to 16 bytes, over the canonical form of the row's columns in the order of the table, without the digest itself.
An integer is `i12;`, a real number `f` and its 8 bytes (little-endian, -0.0 as 0.0, as SQLite stores it), a text `t5:` and its UTF-8, a
blob the same with its bytes, NULL `n`. (blake2b takes twice the time on processors that have instructions for sha256.) Triggers compute
them, so that no writer can forget them.

Turns are many and large: a sha256 of each took 13 % of the journal's time. Theirs is a CRC-32 over the bytes of their columns, computed by
the journal, which goes on from turn to turn of an episode. It finds every flipped bit, and every change within 4 bytes; of other changes it
misses one in 2^32.

They are chained: an episode's digest covers that of its last turn once it has ended, and a gate's those of its pairs once it has a verdict.
Turns from before there were digests have none of their own: that of their episode covers them, in a way of its own (`end_of_old`), so that
a digest that got lost is found too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from typing import Any

from isal.isal_zlib import crc32

from perdure.memory.layout.sqlite_library import sqlite3

Value = int | float | str | bytes | None

SIZE = 16
"""Bytes of a digest. Those of turns are integers of 32 bits."""

TURN = (
    "episode, n, shared, prompt_ids, action_ids, logprobs, observation, action, invalid, reward, finish, version, step_job, step_n, made_at"
)
"""The columns of a turn, which its digest covers."""


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

ALSO_OF_EPISODE = f"""CASE state WHEN 'running' THEN NULL ELSE coalesce(
        (SELECT t.digest FROM turn t WHERE t.episode = episode.id ORDER BY t.n DESC LIMIT 1),
        (SELECT s.chain FROM shelved s WHERE s.episode = episode.id),
        (SELECT turn_chain({_given(TURN)}) FROM (SELECT * FROM turn t WHERE t.episode = episode.id ORDER BY t.n))) END"""
"""The same of an episode since turns can be in a shard (`memory/history/`); earlier migrations do not know of them."""

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


def turn_digest(columns: Sequence[Any], before: int | None) -> int:
    """The digest of a turn, given as its columns `TURN`, and that of the turn before it. Texts may be given as their bytes.

    The CRC-32 goes on from that of the turn before, or from 0, over: `episode`, `n`, `shared`, `reward`, `made_at` and the sizes of the
    five values that follow, 8 bytes each; prompt, answer, log-probs, observation, action; the other columns as `canonical` writes them,
    but the integers in 8 bytes.
    """
    episode, n, shared, prompt, answer, logprobs, observation, action, invalid, reward, finish, version, step_job, step_n, made_at = columns
    try:
        if type(observation) is str:
            observation, action = observation.encode("utf-8", "surrogateescape"), action.encode("utf-8", "surrogateescape")
        numbers = _NUMBERS(
            episode, n, shared, reward + 0.0, made_at, len(prompt), len(answer), len(logprobs), len(observation), len(action)
        )
        others = _others(finish, version, step_job, step_n) if invalid is None else _others(finish, version, step_job, step_n, invalid)
        return crc32(b"".join((numbers, prompt, answer, logprobs, observation, action, others)), before or 0)
    except (TypeError, AttributeError, struct.error):  # a value of another type, as only damage makes it
        return crc32(canonical(columns), before or 0)


def end_of_old(computed: int) -> int:
    """What the digest of an episode covers if its turns have none: the digest that its last turn would have, made negative."""
    return -1 - computed


@contextmanager
def raw_texts(conn: sqlite3.Connection) -> Iterator[None]:
    """Read texts as their bytes: after a flipped bit they may be no UTF-8."""
    before = conn.text_factory
    conn.text_factory = bytes
    try:
        yield
    finally:
        conn.text_factory = before


def digest_of(values: Sequence[Value]) -> bytes:
    """The digest of a row. Texts may be given as their bytes."""
    return sha256(canonical(values)).digest()[:SIZE]


def register_digests(conn: sqlite3.Connection) -> None:
    """Register the SQL function `row_digest(...)` and the aggregate `turn_chain(...)`, which the triggers call.

    `turn_chain` takes the columns `TURN` of an episode's turns, in their order, and gives `end_of_old` of the digest of the last.
    """
    conn.create_function("row_digest", -1, lambda *values: digest_of(values), deterministic=True)
    conn.create_aggregate("turn_chain", -1, _TurnChain)  # type: ignore[arg-type]  # typeshed knows one argument only


def sealed(table: str, columns: str) -> str:
    """The SQL that seals the rows of a table, and makes the triggers which write their digests in place of those that it has.

    `columns` are all columns of the table in its order, without `digest`.
    """
    return f"{_seal(table, columns, ALSO.get(table))};\n{resealing(table, columns, ALSO.get(table))}"


def resealing(table: str, columns: str, also: str | None) -> str:
    """The SQL that makes the triggers of a table in place of those that it has, and leaves its rows as they are."""
    seal = _seal(table, columns, also)
    this_row = " AND ".join(f"{name} = NEW.{name}" for name in KEYS.get(table, ("rowid",)))
    return f"""
DROP TRIGGER IF EXISTS {table}_digest_new;
DROP TRIGGER IF EXISTS {table}_digest_again;
CREATE TRIGGER {table}_digest_new AFTER INSERT ON {table} BEGIN {seal} WHERE {this_row}; END;
CREATE TRIGGER {table}_digest_again AFTER UPDATE OF {columns} ON {table} BEGIN {seal} WHERE {this_row}; END;
"""


def _seal(table: str, columns: str, also: str | None) -> str:
    return f"UPDATE {table} SET digest = row_digest({_given(columns)}{', ' + also if also else ''})"


def with_digests(**tables: str) -> str:
    """The SQL that adds digests to tables, given with all of their columns. Turns are not sealed: the journal does that."""
    added = "".join(f"ALTER TABLE {table} ADD COLUMN digest {'INTEGER' if table == 'turn' else 'BLOB'};\n" for table in tables)
    return added + "".join(sealed(table, columns) for table, columns in tables.items() if table != "turn")


@lru_cache
def _others(
    finish: str | bytes, version: str | bytes | None, step_job: int | None, step_n: int | None, invalid: str | bytes | None = None
) -> bytes:
    numbers = (b"n" if number is None else b"q" + _INTEGER(number) for number in (step_job, step_n))
    return canonical((invalid, finish, version)) + b"".join(numbers)


class _TurnChain:
    def __init__(self) -> None:
        self._last: int | None = None

    def step(self, *values: Value) -> None:
        self._last = turn_digest(values, self._last)

    def finalize(self) -> int | None:
        return None if self._last is None else end_of_old(self._last)


_REAL: Callable[[float], bytes] = struct.Struct("<d").pack
_INTEGER: Callable[[int], bytes] = struct.Struct("<q").pack
_NUMBERS: Callable[..., bytes] = struct.Struct("<qqqddqqqqq").pack
