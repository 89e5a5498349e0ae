"""Damage of a store's file, as disks do it: flipped bits, sectors of something else, misplaced pages, an end that was cut off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st
from sqlite_utils.utils import sqlite3

from perdure.memory.schema import PAGE_SIZE_BYTES
from perdure.memory.store import FILE_NAME

SECTOR = 512

Damage = Callable[[bytes], bytes]


def in_one_file(home: Path) -> bytes:
    """The bytes of a closed store, with its log moved into it."""
    conn = sqlite3.connect(str(home / FILE_NAME))
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    conn.execute("PRAGMA journal_mode = DELETE").fetchall()
    conn.close()
    return (home / FILE_NAME).read_bytes()


def put(home: Path, data: bytes) -> None:
    """Make these bytes the store of a home, without a log."""
    for file in home.glob(f"{FILE_NAME}*"):
        file.unlink()
    (home / FILE_NAME).write_bytes(data)


def damages(good: bytes, *, of_pages: bool = True) -> st.SearchStrategy[Damage]:
    """Ways to damage this file, most often a flipped bit of a byte that is in use. `of_pages`: also whole pages."""
    used = [place for place, byte in enumerate(good) if byte]
    flip = st.builds(_flipped, st.sampled_from(used), st.integers(0, 7))
    sector = st.integers(0, len(good) // SECTOR - 1)
    overwritten = st.builds(_overwritten, sector, st.sampled_from([bytes(SECTOR), b"\xff" * SECTOR, b"another file's words " * 25]))
    if not of_pages:
        return st.one_of(flip, overwritten)
    page = st.integers(1, len(good) // PAGE_SIZE_BYTES - 1)
    return st.one_of(flip, flip, overwritten, st.builds(_moved, page, page), st.builds(_cut, page))


def _flipped(place: int, bit: int) -> Damage:
    return lambda good: good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :]


def _overwritten(sector: int, content: bytes) -> Damage:
    return lambda good: good[: sector * SECTOR] + content[:SECTOR] + good[(sector + 1) * SECTOR :]


def _moved(source: int, target: int) -> Damage:
    size = PAGE_SIZE_BYTES
    return lambda good: good[: target * size] + good[source * size : (source + 1) * size] + good[(target + 1) * size :]


def _cut(pages: int) -> Damage:
    return lambda good: good[: pages * PAGE_SIZE_BYTES]
