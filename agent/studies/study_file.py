"""The file of a study: one SQLite database that keeps every finished cell with its rows. One process at a time works on it."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.agent.studies.cells import CellResult
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.json_value import to_json
from perdure.memory.layout.sqlite_library import sqlite3

FILE_NAME = "study.db"
APPLICATION_ID = 0x50445354
"""'PDST' in the header of the file."""

SCHEMA = """
CREATE TABLE cell (
    name            TEXT PRIMARY KEY,
    parameters      TEXT NOT NULL CHECK (json_valid(parameters)),
    made_by         TEXT NOT NULL,              -- commit or version of the program
    seconds         REAL NOT NULL,
    error           TEXT,                       -- NULL: it is done; else it failed, and is tried again by the next run
    finished_at     REAL NOT NULL
) STRICT;
CREATE TABLE result (
    cell            TEXT NOT NULL REFERENCES cell (name) ON DELETE CASCADE,
    n               INTEGER NOT NULL,
    document        TEXT NOT NULL CHECK (json_valid(document)),
    PRIMARY KEY (cell, n)
) STRICT, WITHOUT ROWID;
"""
PLANNED = """
CREATE TABLE IF NOT EXISTS planned (            -- the cells that the study consists of now; others are of earlier plans
    cell            TEXT PRIMARY KEY            -- done or not
) STRICT, WITHOUT ROWID;
"""


class StudyFile:
    """An open study. Use `open_study`."""

    def __init__(self, folder: Path, conn: Any) -> None:
        self.folder = folder
        self._conn = conn

    def results(self) -> dict[str, CellResult]:
        """All cells that were tried, by name, in the order in which they ended."""
        rows: dict[str, list[Any]] = {}
        for cell, document in self._conn.execute("SELECT cell, document FROM result ORDER BY cell, n"):
            rows.setdefault(cell, []).append(json.loads(document))
        return {
            name: CellResult(
                name=name,
                parameters=json.loads(parameters),
                made_by=made_by,
                seconds=seconds,
                rows=tuple(rows.get(name, ())),
                error=error,
            )
            for name, parameters, made_by, seconds, error in self._conn.execute(
                "SELECT name, parameters, made_by, seconds, error FROM cell ORDER BY finished_at, rowid"
            )
        }

    def plan(self, names: Sequence[str]) -> None:
        """Write down which cells the study consists of now: if its file changes, or what earlier cells led to, others are superseded."""
        before = {name for (name,) in self._conn.execute("SELECT cell FROM planned")}
        if before != set(names):
            with self._conn:
                self._conn.execute("DELETE FROM planned")
                self._conn.executemany("INSERT INTO planned (cell) VALUES (?)", [(name,) for name in names])

    def current(self) -> dict[str, CellResult]:
        """The cells that were tried and that the study consists of now: all of them if nothing was ever planned."""
        has_plan = self._conn.execute("SELECT count(*) FROM sqlite_master WHERE name = 'planned'").fetchone()[0]
        planned = {name for (name,) in self._conn.execute("SELECT cell FROM planned")} if has_plan else set()
        return {name: result for name, result in self.results().items() if not planned or name in planned}

    def keep(self, result: CellResult) -> None:
        """Write a cell that has ended, in place of an earlier try of it. It survives a kill as soon as this returns."""
        with self._conn:
            self._conn.execute("DELETE FROM cell WHERE name = ?", (result.name,))
            self._conn.execute(
                "INSERT INTO cell (name, parameters, made_by, seconds, error, finished_at) VALUES (?, ?, ?, ?, ?, ?)",
                (result.name, to_json(result.parameters), result.made_by, result.seconds, result.error, time.time()),
            )
            rows = [(result.name, n, to_json(row)) for n, row in enumerate(result.rows)]
            self._conn.executemany("INSERT INTO result (cell, n, document) VALUES (?, ?, ?)", rows)


@contextmanager
def open_study(folder: Path) -> Iterator[StudyFile]:
    """Open the study in a folder, or begin one there, and hold it until the end.

    Raises `InputError` if another process works on it or the file is not a study's, `RuntimeFailure` if it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise RuntimeFailure(f"cannot write to {folder}: {error.strerror}; name another folder with --keep") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process works on the study in {folder}: wait for it, or name another folder with --keep") from None
        with closing(_connect(folder / FILE_NAME)) as conn:
            yield StudyFile(folder, conn)


def read_study(folder: Path) -> dict[str, CellResult]:
    """What a study has come to so far, without superseded cells, also while another process works on it."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise InputError(f"no study in {folder}")
    with closing(_connect(path, is_writer=False)) as conn:
        has_begun = bool(conn.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
        return StudyFile(folder, conn).current() if has_begun else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class CellCounts:
    """How far a study is."""

    done: int
    failed: int
    left: int
    """Planned as far as is known, and not tried yet."""
    last: float | None
    """When the newest cell ended, as Unix seconds."""


def cell_counts(folder: Path) -> CellCounts:
    """How many cells of a study have ended, without superseded ones, and without reading what they came to. Raises as `read_study`."""
    path = folder / FILE_NAME
    with closing(_connect(path, is_writer=False)) as conn:
        try:
            tables = {name for (name,) in conn.execute("SELECT name FROM sqlite_master")}
            planned = {name for (name,) in conn.execute("SELECT cell FROM planned")} if "planned" in tables else set()
            tried = conn.execute("SELECT name, error IS NULL, finished_at FROM cell").fetchall() if "cell" in tables else []
        except sqlite3.Error as error:
            raise RuntimeFailure(f"cannot use {path}: {error}; move it away, or name another folder with --keep") from error
    cells = [row for row in tried if not planned or row[0] in planned]
    done = sum(bool(is_done) for _, is_done, _ in cells)
    return CellCounts(
        done=done,
        failed=len(cells) - done,
        left=len(planned - {name for name, _, _ in cells}),
        last=max((at for _, _, at in cells), default=None),
    )


def last_finished(folder: Path) -> float | None:
    """When the newest cell of a study ended, as Unix seconds; None if it has none yet."""
    with closing(_connect(folder / FILE_NAME, is_writer=False)) as conn:
        has_begun = bool(conn.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
        found = conn.execute("SELECT max(finished_at) FROM cell").fetchone()[0] if has_begun else None
        return None if found is None else float(found)


def _connect(path: Path, *, is_writer: bool = True) -> Any:
    """Only the writer, who holds the study's lock, makes tables."""
    try:
        conn = sqlite3.connect(path, timeout=15)
        (found,) = conn.execute("PRAGMA application_id").fetchone()
        if is_writer and not found and not conn.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            conn.executescript(f"PRAGMA journal_mode = WAL; PRAGMA application_id = {APPLICATION_ID}; BEGIN; {SCHEMA} COMMIT;")
            found = APPLICATION_ID
        if is_writer and found == APPLICATION_ID:
            conn.executescript(PLANNED)
        conn.executescript("PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL;")
    except sqlite3.Error as error:
        raise RuntimeFailure(f"cannot use {path}: {error}; move it away, or name another folder with --keep") from error
    if found != APPLICATION_ID and (is_writer or found):
        conn.close()
        raise InputError(f"{path} is not the file of a study: name another folder with --keep")
    return conn
