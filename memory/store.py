"""The store: one SQLite file in the home, its connection, and its errors in plain words.

Every write is one `BEGIN IMMEDIATE` transaction with `synchronous=FULL`, so that what was acknowledged survives the death of the process
and of the machine; writing together what belongs together (all turns of one generation batch) is what makes that cheap. Reads fetch all
rows at once: a reader that stays open keeps the write-ahead log from being reset. One process checkpoints, the holder of the home's lock.

A `Store` belongs to the thread that opened it; another thread opens its own. Left out: what is in the tables (one file for each subject)
and the lock of the home (`agent/home.py`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlite_utils import Database, Migrations
from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]  # pysqlite3 where it is installed

from perdure.memory import faults
from perdure.memory.blobs import register_functions
from perdure.memory.errors import InputError, PerdureError, RuntimeFailure, Unavailable
from perdure.memory.schema import APPLICATION_ID, MIGRATIONS, PAGE_SIZE_BYTES

FILE_NAME = "perdure.db"
FOLDERS = ("versions", "logs", "run")
ARCHIVE = "archive"
"""The folder of pruned episodes, made by the first prune."""
BUSY_TIMEOUT_MS = 15_000
CHECKPOINT_PAGES = 512
"""8 MiB: the lock holder moves the write-ahead log into the database when it is this long."""

Params = Sequence[Any] | Mapping[str, Any]


class Store:
    """An open store. Use `open_store` or `create_store`."""

    def __init__(self, home: Path, db: Database) -> None:
        self.home = home
        self.db = db

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or nothing. Inside another it joins that one, and its failure undoes only its own part."""
        if not self.db.conn.in_transaction:
            with self._transaction("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK") as conn:
                yield conn
            return
        with self._transaction("SAVEPOINT joined", "RELEASE joined", "ROLLBACK TO joined; RELEASE joined") as conn:
            yield conn

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One transaction that locks nobody out: what is read in it is of one moment, and only attached tables are written in it.

        Keep it short where it reads the store: meanwhile the write-ahead log cannot be reset.
        """
        with self._transaction("BEGIN", "COMMIT", "ROLLBACK") as conn:
            yield conn

    def rows(self, sql: str, params: Params = ()) -> list[sqlite3.Row]:
        """All rows of a query, inside the present transaction where there is one."""
        with _plain_errors(self.home):
            cursor = self.db.conn.cursor()
            cursor.row_factory = sqlite3.Row
            return cursor.execute(sql, params).fetchall()

    def close(self) -> None:
        self.db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self, begin: str, end: str, undo: str) -> Iterator[sqlite3.Connection]:
        conn = self.db.conn
        with _plain_errors(self.home):
            conn.execute(begin)
            try:
                yield conn
                conn.execute(end)
            except BaseException:
                if conn.in_transaction:
                    for sql in undo.split("; "):
                        conn.execute(sql)
                raise


def open_store(home: Path) -> Store:
    """Open the store of a home that has one, at the schema that this program knows.

    Raises `InputError` where there is no store or it is not ours, `RuntimeFailure` where the machine or the file does not let us write.
    """
    home = home.resolve()
    path = home / FILE_NAME
    if not path.is_file():
        raise InputError(f"no store in {home}: `perdure run` makes one; or name its folder with --home")
    _check_writable(home, path)
    store = _connect(home, mode="rw", autocheckpoint=0)
    try:
        found = _schema_version(store)
        if found < len(MIGRATIONS):
            raise RuntimeFailure(
                f"the store in {home} has schema {found}, this program needs {len(MIGRATIONS)}: start `perdure run` once, it migrates"
            )
    except BaseException:
        store.close()
        raise
    return store


def create_store(home: Path) -> Store:
    """Make the home where it is missing and bring its store to the present schema. Only the holder of the home's lock calls it."""
    home = home.resolve()
    try:
        for folder in (home, *(home / name for name in FOLDERS)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeFailure(f"cannot make the home {home}: {error.strerror}; name another folder with --home") from error
    _check_writable(home, home / FILE_NAME)
    store = _connect(home, mode="rwc", autocheckpoint=CHECKPOINT_PAGES)
    try:
        if _schema_version(store) < len(MIGRATIONS):
            with store.write():
                _migrations().apply(store.db)
            if (found := _schema_version(store)) != len(MIGRATIONS):
                raise RuntimeFailure(f"the store in {home} says schema {found} after its migrations: it is damaged; restore a backup")
    except BaseException:
        store.close()
        raise
    return store


def checkpoint(store: Store) -> None:
    """Move the write-ahead log into the database and cut it. Only the holder of the home's lock calls it; waits for nobody."""
    with _plain_errors(store.home):
        store.db.conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def set_patience(store: Store, wait_ms: int) -> None:
    """How long a write waits for another program's, before it raises `Unavailable`; at first 15 s."""
    store.db.conn.execute(f"PRAGMA busy_timeout = {wait_ms:d}")


def give_back(store: Store, pages: int) -> int:
    """Give up to so many free pages of the file back to the file system; gives how many are free still. Outside of any transaction."""
    with _plain_errors(store.home):
        store.db.conn.executescript(f"PRAGMA incremental_vacuum({pages})")  # `execute` takes one step, which frees a single page
    return int(store.rows("PRAGMA freelist_count")[0][0])


def refuse_inside(store: Store, path: Path) -> None:
    """Raise `InputError` where `path` lies in the home: what is written for people must not take the place of what is in use there."""
    if path.resolve().is_relative_to(store.home):
        raise InputError(f"{path} lies in the home itself: name a file outside of {store.home}")


Document = dict[str, Any]
"""A JSON object that is only passed on, as to `--json`."""


def to_json(value: Any) -> str:
    """JSON text. Numbers that are not finite become null, since JSON has no word for them."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):  # looking at every number costs more than writing it
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def iso_utc(unix_s: float) -> str:
    """A time for people and scripts: '2026-11-23T08:15:00+00:00'."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")


def _connect(home: Path, *, mode: str, autocheckpoint: int) -> Store:
    with _plain_errors(home):
        conn = sqlite3.connect(f"{(home / FILE_NAME).as_uri()}?mode={mode}", uri=True, isolation_level=None)
        try:
            conn.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            _check_ours(home, conn)
            if mode == "rwc":  # these two are settled by the first table, and setting the second one writes
                conn.execute(f"PRAGMA page_size = {PAGE_SIZE_BYTES}")
                conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
            conn.execute("PRAGMA journal_mode = WAL").fetchall()
            conn.execute("PRAGMA synchronous = FULL")
            conn.execute("PRAGMA foreign_keys = ON")
            conn.execute(f"PRAGMA wal_autocheckpoint = {autocheckpoint}").fetchall()
            conn.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_PAGES * PAGE_SIZE_BYTES}").fetchall()
            db = Database(conn, strict=True)
            register_functions(db)
        except BaseException:
            conn.close()
            raise
    return Store(home, db)


def _check_ours(home: Path, conn: sqlite3.Connection) -> None:
    """Refuse another program's database before anything in it is changed."""
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    (tables,) = conn.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application != 0 or tables > 0):
        raise InputError(f"{home / FILE_NAME} is another program's database: move it away, or name another folder with --home")


def _schema_version(store: Store) -> int:
    found = int(store.rows("PRAGMA user_version")[0][0])
    if found > len(MIGRATIONS):
        raise InputError(
            f"the store in {store.home} has schema {found}, and this program knows {len(MIGRATIONS)}: a newer Perdure wrote it; "
            "install that one, or name another folder with --home"
        )
    return found


def _migrations() -> Migrations:
    """The migrations of `schema.py`; each also sets what the file's header says of itself."""
    migrations = Migrations("perdure")
    for n, sql in enumerate(MIGRATIONS, start=1):

        def migrate(db: Database, n: int = n, sql: str = sql) -> None:
            db.executescript(sql)
            faults.point("mid-migration")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {n}")

        migrations(name=f"{n:04d}")(migrate)
    return migrations


def _check_writable(home: Path, path: Path) -> None:
    """Asks the kernel, which also knows a read-only mount from the user root."""
    for place in (home, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise RuntimeFailure(
                f"cannot write to {place}: it is read-only for this user; allow writing, or name another folder with --home"
            )


@contextmanager
def _plain_errors(home: Path) -> Iterator[None]:
    """The one place where SQLite's errors become errors that say what to do. Those that are our own mistakes stay as they are."""
    try:
        yield
    except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
        plain = _plain_error(home, error)
        if plain is None:
            raise
        raise plain from error


def _plain_error(home: Path, error: Exception) -> PerdureError | None:
    path = home / FILE_NAME
    if isinstance(error, OverflowError):
        return InputError("a number is too large for the store: integers go up to 2**63 - 1")
    if isinstance(error, UnicodeEncodeError):
        return InputError(f"a text is not valid Unicode ({error.reason}) and cannot be stored")
    message = str(error)
    said: tuple[tuple[str, PerdureError], ...] = (
        ("disk is full", Unavailable(f"the disk of {home} is full: nothing of this write was kept; free some space and start again")),
        ("readonly", Unavailable(f"cannot write to {path}: it is read-only; allow writing, or name another folder with --home")),
        (
            "unable to open",
            Unavailable(f"cannot open {path} for writing: check that {home} exists and allows writing, or name another --home"),
        ),
        ("locked", Unavailable(f"{path} stays locked by another program: end what holds it, and try again")),
        ("not a database", InputError(f"{path} is not a database: move it away, or name another folder with --home")),
        ("malformed", RuntimeFailure(f"{path} is damaged ({message}): restore a backup of {home}")),
        ("disk I/O error", Unavailable(f"reading or writing {path} failed ({message}): check the disk and its space")),
        (
            "FOREIGN KEY",
            RuntimeFailure("a write named an environment, version, task, job or episode that is not in the store: nothing was written"),
        ),
    )
    return next((plain for sign, plain in said if sign in message), None)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
