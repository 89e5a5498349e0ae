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

from perdure.memory.blobs import register_functions
from perdure.memory.errors import InputError, PerdureError, RuntimeFailure
from perdure.memory.schema import APPLICATION_ID, MIGRATIONS, PAGE_SIZE_BYTES

FILE_NAME = "perdure.db"
FOLDERS = ("versions", "logs", "run")
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
        conn = self.db.conn
        with _plain_errors(self.home):
            joins = conn.in_transaction
            conn.execute("SAVEPOINT joined" if joins else "BEGIN IMMEDIATE")
            try:
                yield conn
                conn.execute("RELEASE joined" if joins else "COMMIT")
            except BaseException:
                if conn.in_transaction:
                    conn.execute("ROLLBACK TO joined" if joins else "ROLLBACK")
                    if joins:
                        conn.execute("RELEASE joined")
                raise

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


def to_json(value: Any) -> str:
    """JSON text. Numbers that are not finite become null, since JSON has no word for them."""
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
        ("disk is full", RuntimeFailure(f"the disk of {home} is full: nothing of this write was kept; free some space and start again")),
        ("readonly", RuntimeFailure(f"cannot write to {path}: it is read-only; allow writing, or name another folder with --home")),
        (
            "unable to open",
            RuntimeFailure(f"cannot open {path} for writing: check that {home} exists and allows writing, or name another --home"),
        ),
        (
            "locked",
            RuntimeFailure(f"{path} was locked by another program for {BUSY_TIMEOUT_MS // 1000} s: end what holds it, and try again"),
        ),
        ("not a database", InputError(f"{path} is not a database: move it away, or name another folder with --home")),
        ("malformed", RuntimeFailure(f"{path} is damaged ({message}): restore a backup of {home}")),
        ("disk I/O error", RuntimeFailure(f"reading or writing {path} failed ({message}): check the disk and its space")),
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
