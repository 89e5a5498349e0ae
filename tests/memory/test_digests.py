"""Digests: one form for each row, every row sealed by whatever writes it, and every flipped bit of a stored value found."""

from __future__ import annotations

import math
import random
import re
import struct
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from tests.memory.damage import in_one_file, put
from tests.memory.everything import CLOCK, fill

from perdure.memory import environments, processes
from perdure.memory.errors import PerdureError
from perdure.memory.history.archive import archive
from perdure.memory.layout.digests import TURN, Value, canonical, digest_of, raw_texts, turn_digest
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.store import FILE_NAME, Store, create_store, open_store
from perdure.memory.upkeep.check_digests import changed_episodes, changed_rows, changed_rows_of
from perdure.memory.upkeep.integrity import check

SEED = 19
"""Of the flips."""


def changed(store: Store) -> list[str]:
    return [row for row, _ in changed_rows(store, lambda done, total: None)]


def tables(store: Store) -> dict[str, list[str]]:
    """The tables that have digests, with their other columns."""
    names = [row["name"] for row in store.rows("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%sqlite%'")]
    return {name: [row["name"] for row in store.rows(f"PRAGMA table_info({name})") if row["name"] != "digest"] for name in names}


def test_the_canonical_form_is_as_documented() -> None:
    form = b"i12;" + b"f" + struct.pack("<d", 0.5) + b"t3:\xc3\xa9\n" + b"t2:\x00\x01" + b"n"
    assert canonical([12, 0.5, "é\n", b"\0\1", None]) == form
    assert digest_of([12, 0.5, "é\n", b"\0\1", None]) == sha256(form).digest()[:16]
    assert digest_of([-0.0]) == digest_of([0.0]), "SQLite stores the first as the second"
    assert digest_of([True]) == digest_of([1])
    assert digest_of([1]) != digest_of([1.0]) != digest_of(["1"]) == digest_of([b"1"])
    assert digest_of(["a", "b"]) != digest_of(["ab", ""]) != digest_of(["ab"])


@pytest.mark.parametrize("invalid", [None, "no number"])
def test_the_digest_of_a_turn_is_as_documented_and_goes_on_from_that_of_the_turn_before(invalid: str | None) -> None:
    turn: list[Value] = [7, 1, 3, b"\1\0\0\0", b"", b"\0\0\0\0", "é?", "4", invalid, -0.0, "stop", None, 2, 5, 1e9]
    assert len(turn) == len(TURN.split(","))
    numbers = struct.pack("<qqqddqqqqq", 7, 1, 3, 0.0, 1e9, 4, 0, 4, 3, 1)
    others = (b"n" if invalid is None else b"t9:no number") + b"t4:stop" + b"n" + struct.pack("<cqcq", b"q", 2, b"q", 5)
    form = numbers + b"\1\0\0\0" + b"\0\0\0\0" + "é?".encode() + b"4" + others
    assert turn_digest(turn, None) == crc32(form)
    assert turn_digest(turn, crc32(b"the turns before")) == crc32(b"the turns before" + form)
    assert turn_digest([value.encode() if isinstance(value, str) else value for value in turn], None) == crc32(form)


def test_every_row_of_every_table_is_sealed(full: Store) -> None:
    processes.pause(full, "learning", "a person said so")
    processes.set_alarms(full, [processes.Alarm(name="cron", setting="0 3 * * 0", next=2e9)])
    archive(full, 1e11, lambda line: None)
    for name in tables(full):
        assert full.rows(f"SELECT count(*) FROM {name}")[0][0] > 0, f"{name} is empty, so that this shows nothing of it"
        sealed = "typeof(digest) IS 'integer'" if name == "turn" else "length(digest) IS 16"
        assert full.rows(f"SELECT count(*) FROM {name} WHERE NOT {sealed}")[0][0] == 0, name
    assert changed(full) == []


def test_the_triggers_cover_every_column(store: Store) -> None:
    """Fails for a migration that adds a column without `sealed`."""
    for name, columns in tables(store).items():
        quoted = ", ".join(f'"{column}"' if column in ("group", "row") else column for column in columns)
        if name == "turn":
            assert quoted == TURN
            continue
        for trigger in ("new", "again"):
            ((sql,),) = store.rows("SELECT sql FROM sqlite_master WHERE name = ?", (f"{name}_digest_{trigger}",))
            covered = re.findall(r"CAST\((.*?) AS BLOB\)", sql.partition("row_digest(")[2].partition(", CASE state")[0])
            assert ", ".join(covered) == quoted, name


def test_a_change_of_any_value_behind_the_back_of_the_store_is_found(full: Store) -> None:
    """Each bit of each short value, and one bit of each byte of the long ones, in one row of each table."""
    archive(full, 1e11, lambda line: None)
    conn = full.conn
    conn.execute("PRAGMA foreign_keys = OFF")
    conn.execute("PRAGMA ignore_check_constraints = ON")
    sealing = [row["name"] for row in full.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
    flips = 0
    conn.execute("BEGIN")
    for trigger in sealing:
        conn.execute(f"DROP TRIGGER {trigger}")
    conn.execute("COMMIT")
    for table, columns in tables(full).items():
        if not full.rows(f"SELECT 1 FROM {table} LIMIT 1"):
            continue
        for column in columns:
            for flipped in _flips(full.rows(f'SELECT "{column}" FROM {table} ORDER BY "{column}" IS NULL LIMIT 1')[0][0]):
                conn.execute("BEGIN")
                text = "CAST(? AS TEXT)" if isinstance(flipped, _Text) else "?"
                where = f'(SELECT "{column}" FROM {table} ORDER BY "{column}" IS NULL LIMIT 1)'
                try:
                    conn.execute(f'UPDATE {table} SET "{column}" = {text} WHERE "{column}" IS {where}', (flipped,))
                    assert _differs(full, table), f"{table}.{column} = {flipped!r}"
                    flips += 1
                except sqlite3.IntegrityError:  # a key that is taken, or no value for the column
                    pass
                conn.execute("ROLLBACK")
    assert flips > 3000


class _Text(bytes):
    """The bytes of a text."""


def _flips(value: Any) -> Iterator[Any]:
    if isinstance(value, int):
        yield from (value ^ (1 << bit) for bit in range(63))
    elif isinstance(value, float):
        raw = struct.pack("<d", value)
        numbers = (struct.unpack("<d", one)[0] for one in _flipped(raw, 1))
        yield from (number for number in numbers if not math.isnan(number) and number != value)  # no NaN is stored, and -0.0 as 0.0
    elif isinstance(value, str):
        yield from map(_Text, _flipped(value.encode(), 8))
    elif value is not None:
        yield from _flipped(value, 8)


def _flipped(raw: bytes, every: int) -> Iterator[bytes]:
    for bit in range(0, 8 * len(raw), every):
        yield bytes(byte ^ (1 << (bit + n) % 8) if n == bit // 8 else byte for n, byte in enumerate(raw))


def _differs(store: Store, table: str) -> bool:
    """Whether the check finds something; what `changed_rows` does of one table, inside of a transaction that was begun."""
    if table in ("turn", "episode"):
        return any(changed_episodes(store, lambda done, total: None, None))
    return any(changed_rows_of(store, table))


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with everything in its store, all of it in one file."""
    home = tmp_path_factory.mktemp("flips") / "home"
    with create_store(home) as store:
        fill(store)
    in_one_file(home)
    return home


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in range(1, 4))])
def test_fuzz_a_flipped_bit_of_the_file_is_found_or_changes_no_value(closed: Path, part: int) -> None:
    """Flips of bytes that are in use, also those of indexes, definitions and trees, each in a file of its own."""
    file = closed / FILE_NAME
    good = file.read_bytes()
    with open_store(closed) as store:
        whole = stored(store)
        assert [finding for finding in check(store, CLOCK) if finding.level == "error"] == []
    chance = random.Random(SEED + part)
    used = [place for place, byte in enumerate(good) if byte]
    seen = {"refused": 0, "found": 0, "harmless": 0}
    try:
        for _ in range(150):
            place, bit = chance.choice(used), chance.randrange(8)
            data = bytearray(good)
            data[place] ^= 1 << bit
            put(closed, bytes(data))
            try:
                store = open_store(closed)
            except PerdureError:
                seen["refused"] += 1
                continue
            with store:
                if any(finding.level == "error" for finding in check(store, CLOCK)):
                    seen["found"] += 1
                else:
                    assert stored(store) == whole, f"bit {bit} of byte {place}"
                    seen["harmless"] += 1
    finally:
        put(closed, good)
    assert seen["found"] > 10


def stored(store: Store) -> dict[str, list[str]]:
    """Every row of every table, without its digest's help."""
    names = list(tables(store))
    with raw_texts(store.conn):
        return {name: sorted(repr(tuple(row)) for row in store.rows(f"SELECT * FROM {name}")) for name in names}


def test_another_program_can_read_a_store_but_not_write_past_the_digests(full: Store) -> None:
    conn = sqlite3.connect(str(full.home / FILE_NAME))
    assert conn.execute("SELECT count(*) FROM episode").fetchone() == (12,)
    with pytest.raises(sqlite3.OperationalError, match="no such function: row_digest"):
        conn.execute("UPDATE episode SET total_reward = 1")
    conn.close()


def test_a_digest_that_is_gone_is_found(full: Store) -> None:
    several, single = 3, 6
    for episode, n in ((several, 0), (several, 1), (several, 2), (single, 0)):
        full.rows("BEGIN")
        full.rows("UPDATE turn SET digest = NULL WHERE episode = ? AND n = ?", (episode, n))
        found = changed(full)
        assert found, (episode, n)
        assert {row.split()[1] for row in found} == {str(episode)}
        full.rows("ROLLBACK")


def test_the_digest_of_an_episode_covers_its_turns_and_that_of_a_gate_its_pairs(full: Store) -> None:
    with full.write() as conn:
        conn.execute("DELETE FROM turn WHERE episode = 3 AND n = 2")
        conn.execute("DELETE FROM pair")
    assert changed(full) == ["episode 3", "gate 1"]


def test_a_change_through_the_store_is_sealed_again(store: Store) -> None:
    environments.register(store, "py:a", 1.0)
    sql = "SELECT digest FROM environment WHERE name = 'py:a'"
    before = store.rows(sql)[0][0]
    environments.register(store, "py:a", 0.5)
    assert store.rows(sql)[0][0] != before
    assert changed(store) == []
