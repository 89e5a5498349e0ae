"""Damage of a store's file, as disks do it: flipped bits, sectors of something else, misplaced pages, an end that was cut off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hypothesis import strategies as st

from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.schema import PAGE_SIZE_BYTES
from perdure.memory.store import FILE_NAME

SECTOR = 512

Kind = Literal["bit", "zeros", "ones", "another file", "misplaced page", "cut"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One kind of damage; `place` and `other` are taken modulo what the file has."""

    kind: Kind
    place: int
    other: int

    def done_to(self, good: bytes) -> bytes:
        """The damaged file. A bit is one of a byte that is in use."""
        if self.kind == "bit":
            used = [place for place, byte in enumerate(good) if byte]
            place = used[self.place % len(used)]
            return good[:place] + bytes([good[place] ^ 1 << self.other % 8]) + good[place + 1 :]
        pages = len(good) // PAGE_SIZE_BYTES
        page = 1 + self.place % (pages - 1)
        if self.kind == "cut":
            return good[: page * PAGE_SIZE_BYTES]
        if self.kind == "misplaced page":
            source = (self.other % pages) * PAGE_SIZE_BYTES
            return _overwritten(good, page * PAGE_SIZE_BYTES, good[source : source + PAGE_SIZE_BYTES])
        content = {"zeros": bytes(SECTOR), "ones": b"\xff" * SECTOR, "another file": b"the words of another file " * 20}[self.kind]
        return _overwritten(good, self.place % (len(good) // SECTOR) * SECTOR, content[:SECTOR])


def damages(*kinds: Kind) -> st.SearchStrategy[Damage]:
    """Damage of these kinds."""
    numbers = st.integers(0, 2**31)
    return st.builds(Damage, kind=st.sampled_from(kinds), place=numbers, other=numbers)


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


def _overwritten(good: bytes, start: int, content: bytes) -> bytes:
    return good[:start] + content + good[start + len(content) :]
