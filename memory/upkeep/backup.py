"""Backups: a copy of the database and, beside it, of the adapters of its versions, taken while other processes write.

SQLite's online backup copies pages inside one read transaction: the copy is of one moment, nobody is locked out, and writes do not make it
start again. (`VACUUM INTO` renumbers rows of tables without an integer key.) The copy is made a single file without a log and checked;
only then it gets its name.

A backup `b.db` has the adapters in `b.db.versions/`. Adapters never change, so a folder that is there already with the right hashes stays,
and a nightly backup copies only new ones. Shards of the history are the same: those in the home are in `b.db.history/`. Those in a bucket
stay there. docs/operations.md says how to restore.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from os import getpid
from pathlib import Path, PurePosixPath

from perdure.memory import faults
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.files import MAKING, MANIFEST, check_files, making, publish, remove_unfinished, sha256_of
from perdure.memory.history.shard_places import shard_place
from perdure.memory.json_value import Document, record_json
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.store import HISTORY, Store, refuse_inside
from perdure.memory.upkeep.garbage import needed_versions
from perdure.memory.versions import list_versions

STEP_PAGES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """A version whose files are not in the backup."""

    version: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """The result of a backup."""

    path: Path
    size_bytes: int
    """Of the database alone."""
    episodes: int
    turns: int
    versions: tuple[str, ...]
    """The versions whose adapters are in the backup."""
    lacks: tuple[Lack, ...]
    """The versions whose files are needed but missing or damaged in the home. Rejected ones do not count."""
    shards: int
    """How many shards of the history are in the backup."""
    shard_lacks: tuple[str, ...]
    """What is wrong with the shards that the backup needs and does not have."""

    def as_json(self) -> Document:
        """The output of the command."""
        return record_json(self)


def backup(store: Store, path: Path, *, replace: bool = False) -> Backup:
    """Copy the store to `path`, and the adapters of its versions to a folder beside it.

    Raises `InputError` if `path` exists and `replace` is False, and `RuntimeFailure` if it cannot be written or the store is damaged.
    """
    refuse_inside(store, path)
    log = Path(f"{path}-wal")
    if log.exists():  # SQLite would read it as the log of the new file
        raise InputError(f"{path} is a database in use, or was not closed: {log.name} is beside it; name another file")
    with making(path, replace=replace) as made:
        try:
            _copy(store, made)
            with closing(sqlite3.connect(f"{made.absolute().as_uri()}?mode=ro", uri=True)) as copy:
                _check(copy)
                counting = """
                    SELECT (SELECT count(*) FROM episode), (SELECT count(*) FROM turn)
                           + (SELECT coalesce(sum(turns - pruned_turns), 0) FROM shard WHERE state = 'whole')
                """
                episodes, turns = copy.execute(counting).fetchone()
                needed = copy.execute("SELECT place, sha256 FROM shard WHERE state = 'whole' AND pruned_episodes < episodes").fetchall()
        except sqlite3.Error as error:
            raise RuntimeFailure(f"could not write {path}: {error}; no backup was made") from error
        copied, lacks = _copy_adapters(store, Path(f"{path}.versions"), replace)
        shards, shard_lacks = _copy_shards(store, Path(f"{path}.{HISTORY}"), needed, replace)
        size_bytes = made.stat().st_size
    return Backup(
        path=path,
        size_bytes=size_bytes,
        episodes=episodes,
        turns=turns,
        versions=copied,
        lacks=lacks,
        shards=shards,
        shard_lacks=shard_lacks,
    )


def _copy(store: Store, made: Path) -> None:
    """Copy every page, all of one moment, into a file without a log. Raises `RuntimeFailure` and SQLite's errors of writing."""
    made.touch(mode=0o600)  # episodes are private
    with closing(sqlite3.connect(str(made), isolation_level=None)) as copy:
        copy.execute("PRAGMA journal_mode = OFF").fetchall()  # the new file needs no rollback
        with store.read() as conn:
            conn.execute("SELECT 1 FROM sqlite_master").fetchone()  # begins the snapshot
            try:
                conn.backup(copy, pages=STEP_PAGES, progress=lambda *_: faults.point("mid-backup"))
            except sqlite3.Error as error:
                raise RuntimeFailure(f"could not copy the store to {made.parent}: {error}; no backup was made") from error
        # a home made of the copy must not remove what this home is about to write
        copy.execute("DELETE FROM shard WHERE state = 'writing'")
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()


def _check(copy: sqlite3.Connection) -> None:
    (result,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
    if result != "ok":
        raise RuntimeFailure(f"the store is damaged, so that no backup was made ({result}): `perdure store check` shows more")


def _copy_adapters(store: Store, folder: Path, replace: bool) -> tuple[tuple[str, ...], tuple[Lack, ...]]:
    """Copy the adapters that are not there yet. Returns the versions whose files the backup has, and those whose files it lacks.

    Reads the versions after the copy of the database: there may be one more by now, which does no harm.
    """
    copied, lacks, needed = [], [], needed_versions(store)
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
        if final.is_symlink() or folder.is_symlink():
            raise InputError(f"{final} is or goes through a link, and is not replaced: name another file")
        if final.exists() and not _is_whole(final, version.hash):
            if not replace:
                raise InputError(f"{final} exists with other content: name another file, or give --force to replace it")
            shutil.rmtree(final)
        if not final.exists():
            _copy_adapter(source, final, (MANIFEST, *manifest.files), version.hash)
        copied.append(version.name)
    return tuple(copied), tuple(lacks)


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


def _copy_shards(store: Store, folder: Path, needed: Sequence[tuple[str, str]], replace: bool) -> tuple[int, tuple[str, ...]]:
    """Copy the shards of the home that are not there yet. Returns how many the backup has, and what is wrong with the others."""
    copied, lacks = 0, []
    for name, digest in needed:
        place = shard_place(store.home, name)
        if place.file is None:
            continue
        final = folder / place.file.name
        if final.is_symlink() or folder.is_symlink():
            raise InputError(f"{final} is or goes through a link, and is not replaced: name another file")
        if final.exists() and sha256_of(final) != digest and not replace:
            raise InputError(f"{final} exists with other content: name another file, or give --force to replace it")
        if not final.exists() or sha256_of(final) != digest:
            try:
                _copy_shard(place.file, final, digest)
            except (RuntimeFailure, FileNotFoundError) as error:
                lacks.append(str(error) if isinstance(error, RuntimeFailure) else f"{name} is missing")
                continue
        copied += 1
    return copied, tuple(lacks)


def _copy_shard(source: Path, final: Path, digest: str) -> None:
    final.parent.mkdir(mode=0o700, exist_ok=True)
    remove_unfinished(final)
    made = final.with_name(f"{MAKING}{final.name}-{getpid()}")
    try:
        shutil.copyfile(source, made)
        if sha256_of(made) != digest:
            raise RuntimeFailure(f"{HISTORY}/{source.name} was changed or damaged (its sha256 differs)")
        publish(made, final)
    finally:
        made.unlink(missing_ok=True)


def _is_whole(folder: Path, digest: str) -> bool:
    try:
        check_files(folder, digest)
    except RuntimeFailure:
        return False
    return True
