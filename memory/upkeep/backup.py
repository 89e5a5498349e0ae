"""Backups: a database that opens, and beside it the adapters of its versions, taken while others write.

SQLite's online backup copies pages inside one read transaction, so that the copy is of one moment, nobody is locked out, and it need not
start again when somebody writes. (`VACUUM INTO` would be of one moment too, but it numbers rows anew where a table has no integer key, and
a copy should be one.) The copy is closed into a single file without a log, checked, and only then gets its name.

A backup `b.db` has the adapters in `b.db.versions/`. They never change, so that a folder which is there already, with the right hashes, is
kept, and a backup of every night copies what is new. How to restore stands in docs/store.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from os import getpid
from pathlib import Path, PurePosixPath
from typing import Any

from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]  # pysqlite3 where it is installed

from perdure.memory import faults
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.files import MAKING, MANIFEST, check_files, making, publish, remove_unfinished
from perdure.memory.store import Store, refuse_inside
from perdure.memory.upkeep.garbage import needed_on_disk
from perdure.memory.versions import list_versions

STEP_PAGES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """A version whose files could not be put into the backup."""

    version: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What a backup holds."""

    path: Path
    size_bytes: int
    """Of the database alone."""
    episodes: int
    turns: int
    versions: tuple[str, ...]
    """Those whose adapters lie beside it."""
    lacks: tuple[Lack, ...]
    """Those whose files are needed and gone from the home itself, or damaged there. Rejected ones are not missed."""

    def as_json(self) -> dict[str, Any]:
        """What the command prints."""
        return {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "episodes": self.episodes,
            "turns": self.turns,
            "versions": list(self.versions),
            "lacks": [{"version": lack.version, "why": lack.why} for lack in self.lacks],
        }


def backup(store: Store, path: Path, *, replace: bool = False) -> Backup:
    """Copy the store to `path`, and the adapters of its versions to a folder beside it.

    Raises `InputError` where `path` exists and is not to be replaced, `RuntimeFailure` where it cannot be written or the store is damaged.
    """
    refuse_inside(store, path)
    log = Path(f"{path}-wal")
    if log.exists():  # SQLite would take it for the log of what is written here
        raise InputError(f"{path} is a database in use, or was not closed: {log.name} lies beside it; name another file")
    with making(path, replace=replace) as made:
        try:
            _copy(store, made)
            with closing(sqlite3.connect(f"{made.absolute().as_uri()}?mode=ro", uri=True)) as copy:
                _check(copy)
                episodes, turns = copy.execute("SELECT (SELECT count(*) FROM episode), (SELECT count(*) FROM turn)").fetchone()
        except sqlite3.Error as error:
            raise RuntimeFailure(f"could not write {path}: {error}; nothing of it was kept") from error
        kept, lacks = _copy_adapters(store, Path(f"{path}.versions"), replace)
        size_bytes = made.stat().st_size
    return Backup(path=path, size_bytes=size_bytes, episodes=episodes, turns=turns, versions=kept, lacks=lacks)


def _copy(store: Store, made: Path) -> None:
    """Every page as it is at one moment, in a file that needs no log beside it. Raises SQLite's errors, those of reading in plain words."""
    made.touch(mode=0o600)  # episodes are nobody else's business
    with closing(sqlite3.connect(str(made), isolation_level=None)) as copy:
        copy.execute("PRAGMA journal_mode = OFF").fetchall()  # nobody goes back to what was in this file before
        with store.read() as conn:
            conn.execute("SELECT 1 FROM sqlite_master").fetchone()  # the moment
            try:
                conn.backup(copy, pages=STEP_PAGES, progress=lambda *_: faults.point("mid-backup"))
            except sqlite3.Error as error:
                raise RuntimeFailure(f"could not copy the store to {made.parent}: {error}; nothing of it was kept") from error
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()


def _check(copy: sqlite3.Connection) -> None:
    said = [row[0] for row in copy.execute("PRAGMA integrity_check(1)")]
    if said != ["ok"]:
        raise RuntimeFailure(f"the store is damaged, and a copy of it no backup ({said[0]}): `perdure store check` tells more")


def _copy_adapters(store: Store, folder: Path, replace: bool) -> tuple[tuple[str, ...], tuple[Lack, ...]]:
    """Copy what is not there yet. Gives the versions whose files the backup has, and those whose files are missed.

    The versions of now are those of the copy, and perhaps one more: a version's files come before its row.
    """
    kept, lacks, needed = [], [], needed_on_disk(store)
    for version in reversed(list_versions(store)):
        if version.path is None or not ((store.home / version.path).is_dir() or version.name in needed):
            continue
        source, final = store.home / version.path, folder / PurePosixPath(version.path).name
        try:
            manifest = check_files(source, version.hash)
        except RuntimeFailure as error:
            if version.state != "rejected":
                lacks.append(Lack(version=version.name, why=str(error)))
            continue
        if final.exists() and not _is_whole(final, version.hash):
            if not replace:
                raise InputError(f"{final} is there with other content: name another file, or give --force to replace it")
            shutil.rmtree(final)
        if not final.exists():
            _copy_adapter(source, final, (MANIFEST, *manifest["files"]), version.hash)
        kept.append(version.name)
    return tuple(kept), tuple(lacks)


def _copy_adapter(source: Path, final: Path, files: Sequence[str], digest: str) -> None:
    final.parent.mkdir(mode=0o700, exist_ok=True)
    remove_unfinished(final)
    made = final.with_name(f"{MAKING}{final.name}-{getpid()}")
    try:
        made.mkdir()
        for file in files:
            shutil.copyfile(source / file, made / file)
        check_files(made, digest)
        publish(made, final)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _is_whole(folder: Path, digest: str) -> bool:
    try:
        check_files(folder, digest)
    except RuntimeFailure:
        return False
    return True
