"""The beginnings of long texts, cut in the database, so that those of ten megabytes cost a page nothing.

They are cut as bytes: SQLite's own functions of texts end at a zero character, and would hide what comes after it. A query selects
`bytes_of(column)` with a parameter `:bytes`, four times the characters that are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CutText:
    """The beginning of a text that may be long."""

    text: str
    size_bytes: int
    """Of the whole."""
    is_cut: bool


def bytes_of(column: str) -> str:
    """SQL for the beginning of a text as bytes, under the name of its column."""
    return f"substr(CAST({column} AS BLOB), 1, :bytes) AS {column.rpartition('.')[2]}"


def decoded(beginning: bytes | None, longest: int) -> str | None:
    """Such a beginning as text. Its last character may be cut in two."""
    return None if beginning is None else beginning.decode("utf-8", "ignore")[:longest]


def cut_text(beginning: bytes, size_bytes: int, longest: int) -> CutText:
    """The same, with what it was cut from."""
    text = beginning.decode("utf-8", "ignore")[:longest]
    return CutText(text=text, size_bytes=size_bytes, is_cut=len(text.encode()) < size_bytes)
