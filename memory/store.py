"""The store: one SQLite file in the home, its connection, and its errors in plain words.

Every write is one `BEGIN IMMEDIATE` transaction with `synchronous=FULL`: once it returns, it survives a kill or a power cut. It is cheap
because what belongs together (all turns of one generation batch) is written together. Reads fetch all rows at once: an open reader would
keep the write-ahead log from being reset. Only the holder of the home's lock checkpoints.

A `Store` belongs to the thread that opened it; another thread opens its own. Left out: what is in the tables (one file for each subject)
and the lock of the home (`agent/home.py`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.memory import faults
from perdure.memory.errors import InputError, NeedsMigration, PerdureError, RuntimeFailure, Unavailable
from perdure.memory.layout.blobs import register_functions
from perdure.memory.layout.digests import register_digests
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.schema import APPLICATION_ID, DEVELOPMENT_ID, MIGRATIONS, PAGE_SIZE_BYTES

if TYPE_CHECKING:  # its import, with what it imports, takes longer than most commands do
    from sqlite_utils import Database, Migrations

FILE_NAME = "perdure.db"
FOLDERS = ("versions", "logs", "run")
ARCHIVE = "archive"
"""The folder of pruned episodes, made by the first prune."""
HISTORY = "history"
"""The folder of the shards that hold the turns of old episodes, made by the first `store archive`."""
BUSY_TIMEOUT_MS = 15_000
CHECKPOINT_PAGES = 512
"""8 MiB: the lock holder moves the write-ahead log into the database when it is this long."""

Params = Sequence[Any] | Mapping[str, Any]

_DAMAGED = "{path} is damaged ({error}): restore a backup of {home}"

_SQLITE_ERRORS: dict[int, tuple[type[PerdureError], str]] = {
    sqlite3.SQLITE_FULL: (Unavailable, "the disk of {home} is full: nothing was written; free some space and start again"),
    sqlite3.SQLITE_READONLY: (Unavailable, "cannot write to {path}: it is read-only; allow writing, or name another folder with --home"),
    sqlite3.SQLITE_CANTOPEN: (
        Unavailable,
        "cannot open {path} for writing: check that {home} exists and allows writing, or name another --home",
    ),
    sqlite3.SQLITE_BUSY: (Unavailable, "{path} stays locked by another program: end that program, and try again"),
    sqlite3.SQLITE_LOCKED: (Unavailable, "{path} stays locked by another program: end that program, and try again"),
    sqlite3.SQLITE_IOERR: (Unavailable, "reading or writing {path} failed ({error}): check the disk and its free space"),
    sqlite3.SQLITE_NOTADB: (InputError, "{path} is not a database: move it away, or name another folder with --home"),
    sqlite3.SQLITE_CORRUPT: (RuntimeFailure, _DAMAGED),
}
"""SQLite's primary result codes, with our error for each. A code that is not here is a mistake of ours and stays as it is."""


class Store:
    """An open store. Use `open_store` or `create_store`."""

    def __init__(self, home: Path, conn: sqlite3.Connection) -> None:
        self.home = home
        self.conn = conn
        self.compared: dict[str, tuple[int, ...]] = {}
        """Shards whose digest was compared, each as its file stood then (`history/checked_shards.py`)."""
        self.silent_until: dict[str, float] = {}
        """Ends of shards that did not answer, and until when they are not asked again, in seconds of the monotonic clock."""

    @cached_property
    def db(self) -> Database:
        """The same connection, for what sqlite-utils can do with it."""
        from sqlite_utils import Database

        return Database(self.conn, strict=True)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or nothing. Inside another it joins that one, and its failure undoes only its own part."""
        if not self.conn.in_transaction:
            with self._transaction("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK") as conn:
                yield conn
            return
        with self._transaction("SAVEPOINT joined", "RELEASE joined", "ROLLBACK TO joined; RELEASE joined") as conn:
            yield conn

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One transaction that locks nobody out: all that is read in it is of one moment. It may write to attached tables only.

        Inside another transaction it joins that one. Keep it short: until it ends, the write-ahead log cannot be reset.
        """
        if self.conn.in_transaction:
            yield self.conn
            return
        with self._transaction("BEGIN", "COMMIT", "ROLLBACK") as conn:
            yield conn

    def rows(self, sql: str, params: Params = ()) -> list[sqlite3.Row]:
        """All rows of a query, inside the current transaction if there is one."""
        with _plain_errors(self.home):
            cursor = self.conn.cursor()
            cursor.row_factory = sqlite3.Row
            try:
                return cursor.execute(sql, params).fetchall()
            except sqlite3.OperationalError as error:
                if str(error).startswith("no such "):  # a definition is damaged, or was changed by hand
                    raise RuntimeFailure(_DAMAGED.format(home=self.home, path=self.home / FILE_NAME, error=error)) from error
                raise

    def close(self) -> None:
        self.conn.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self, begin: str, end: str, undo: str) -> Iterator[sqlite3.Connection]:
        conn = self.conn
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


def open_store(home: Path, migrations: Sequence[str] = MIGRATIONS, *, reading: bool = False) -> Store:
    """Open the store of a home that has one, if it has the schema of this program. `reading`: also if it cannot be written.

    Raises `InputError` if there is no store or it is not ours, and `RuntimeFailure` if it cannot be written or needs a migration.
    """
    home = home.resolve()
    path = home / FILE_NAME
    if not path.is_file():
        raise InputError(f"no store in {home}: `perdure run` makes one; or name its folder with --home")
    require_not_lost(home)
    store = _connect_to_read(home) if reading else _connect_to_write(home)
    try:
        version = _schema_version(store, migrations)
        if version < len(migrations):
            raise NeedsMigration(
                f"the store in {home} has schema {version}, this program needs {len(migrations)}: start `perdure run` once to migrate it"
            )
        _check_versions(store)
    except BaseException:
        store.close()
        raise
    return store


def create_store(home: Path, migrations: Sequence[str] = MIGRATIONS) -> Store:
    """Make the home if it is missing and migrate its store. Only the holder of the home's lock calls it."""
    home = home.resolve()
    try:
        for folder in (home, *(home / name for name in FOLDERS)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeFailure(f"cannot make the home {home}: {error.strerror}; name another folder with --home") from error
    _check_writable(home, home / FILE_NAME)
    require_not_lost(home)
    store = _connect(home, mode="rwc", autocheckpoint=CHECKPOINT_PAGES)
    try:
        if _schema_version(store, migrations) < len(migrations):
            _migrate(store, migrations)
            if (version := _schema_version(store, migrations)) != len(migrations):
                raise RuntimeFailure(f"the store in {home} has schema {version} after its migrations: it is damaged; restore a backup")
        _check_versions(store)
    except BaseException:
        store.close()
        raise
    return store


@contextmanager
def reading_row(what: str) -> Iterator[None]:
    """Raise `RuntimeFailure` that names the row if the block cannot make sense of one, because it is damaged: no JSON, or another form."""
    try:
        yield
    except PerdureError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        raise RuntimeFailure(f"{what} is damaged ({type(error).__name__}: {error}): `perdure store check`, and restore a backup") from error


def checkpoint(store: Store) -> None:
    """Move the write-ahead log into the database and cut it. Only the holder of the home's lock calls it. Does not wait."""
    with _plain_errors(store.home):
        store.conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def set_busy_timeout(store: Store, wait_ms: int) -> None:
    """Set how long a write waits for other programs before it raises `Unavailable`. The default is 15 s."""
    store.conn.execute(f"PRAGMA busy_timeout = {wait_ms:d}")


def give_back(store: Store, pages: int) -> int:
    """Return up to `pages` free pages of the file to the file system, outside of any transaction. Returns how many are left."""
    with _plain_errors(store.home):
        store.conn.executescript(f"PRAGMA incremental_vacuum({pages})")  # `execute` takes one step, which frees a single page
    return int(store.rows("PRAGMA freelist_count")[0][0])


def require_not_lost(home: Path) -> None:
    """Raise `RuntimeFailure` if there are versions, but a database of no bytes or none: to begin anew would hide the loss."""
    file = home / FILE_NAME
    if not (file.exists() and file.stat().st_size) and (kept := _kept(home)):
        what = "is empty" if file.exists() else "is gone"
        raise RuntimeFailure(
            f"{file} {what}, though {kept} is there: restore a backup; or move both away, or name another folder with --home"
        )


def refuse_inside(store: Store, path: Path) -> None:
    """Raise `InputError` if `path` lies in the home: an output file must not replace a file that is in use there."""
    if path.resolve().is_relative_to(store.home):
        raise InputError(f"{path} is inside the home: name a file outside of {store.home}")


def _connect_to_write(home: Path) -> Store:
    _check_writable(home, home / FILE_NAME)
    return _connect(home, mode="rw", autocheckpoint=0)


def _connect_to_read(home: Path) -> Store:
    """A connection that reads also on a disk that is full or became read-only."""
    try:
        return _connect_to_write(home)
    except (Unavailable, RuntimeFailure):
        log = home / f"{FILE_NAME}-wal"
        # without a log nothing changes the file; with one SQLite reads both, if the files beside it are still there
        unchanged = "" if log.exists() and log.stat().st_size else "&immutable=1"
        return _connect(home, mode=f"ro{unchanged}", autocheckpoint=0)


def _connect(home: Path, *, mode: str, autocheckpoint: int) -> Store:
    with _plain_errors(home):
        conn = sqlite3.connect(f"{(home / FILE_NAME).as_uri()}?mode={mode}", uri=True, isolation_level=None)
        try:
            conn.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            _check_ours(home, conn)
            if mode == "rwc":  # the first table fixes both of these, and setting the second one writes
                conn.execute(f"PRAGMA page_size = {PAGE_SIZE_BYTES}")
                conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
            if not mode.startswith("ro"):
                conn.execute("PRAGMA journal_mode = WAL").fetchall()
            conn.execute("PRAGMA synchronous = FULL")
            conn.execute("PRAGMA foreign_keys = ON")
            conn.execute(f"PRAGMA wal_autocheckpoint = {autocheckpoint}").fetchall()
            conn.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_PAGES * PAGE_SIZE_BYTES}").fetchall()
            conn.execute("PRAGMA recursive_triggers = ON")  # a row that another replaces is deleted for the triggers too
            register_functions(conn)
            register_digests(conn)
        except BaseException:
            conn.close()
            raise
    return Store(home, conn)


def _check_ours(home: Path, conn: sqlite3.Connection) -> None:
    """Refuse databases that this program cannot use, before anything in them is changed."""
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    (tables,) = conn.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application == DEVELOPMENT_ID:
        raise InputError(
            f"{home / FILE_NAME} was made by an unreleased development version of Perdure and cannot be opened: "
            "keep that folder, and name another one with --home to make a new home"
        )
    if application != APPLICATION_ID and (application != 0 or tables > 0):
        raise InputError(f"{home / FILE_NAME} is another program's database: move it away, or name another folder with --home")


def _schema_version(store: Store, migrations: Sequence[str]) -> int:
    version = int(store.rows("PRAGMA user_version")[0][0])
    if version > len(migrations):
        raise InputError(
            f"the store in {store.home} has schema {version}, and this program knows {len(migrations)}: a newer Perdure wrote it; "
            "install that one, or name another folder with --home"
        )
    return version


def _migrate(store: Store, migrations: Sequence[str]) -> None:
    """Apply those that the store has not had, all in one transaction."""
    with store.write():
        _migrations(migrations).apply(store.db)


def _migrations(scripts: Sequence[str]) -> Migrations:
    """These SQL scripts as migrations. Each also writes the application id and its number into the header of the file."""
    from sqlite_utils import Migrations

    migrations = Migrations("perdure")
    for n, sql in enumerate(scripts, start=1):

        def migrate(db: Database, n: int = n, sql: str = sql) -> None:
            for statement in _statements(sql):
                db.execute(statement)
            faults.point("mid-migration")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {n}")

        migrations(name=f"{n:04d}")(migrate)
    return migrations


def _statements(sql: str) -> Iterator[str]:
    """The statements of a script, each of whole lines. `Database.executescript` tries each character for an end, which takes 30 ms."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement


def _check_versions(store: Store) -> None:
    """Raise `RuntimeFailure` if there are folders of versions, but no rows."""
    if not store.rows("SELECT 1 FROM version LIMIT 1") and (kept := _kept(store.home)):
        raise RuntimeFailure(f"{store.home / FILE_NAME} knows no version, though {kept} is there: it is damaged; restore a backup")


def _kept(home: Path) -> Path | None:
    """A file of a version, an archive or a shard; None if the home has none."""
    found = (*(home / "versions").glob("v*/*"), *(home / ARCHIVE).glob("*"), *(home / HISTORY).glob("*"))
    return min(found, default=None)


def _check_writable(home: Path, path: Path) -> None:
    """Raise `RuntimeFailure` if the home is read-only. Asks the kernel, which also refuses root on a read-only mount."""
    for place in (home, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise RuntimeFailure(
                f"cannot write to {place}: it is read-only for this user; allow writing, or name another folder with --home"
            )


@contextmanager
def _plain_errors(home: Path) -> Iterator[None]:
    """The one place where SQLite's errors become errors that say what to do. Mistakes of ours stay as they are."""
    try:
        yield
    except OverflowError as error:
        raise InputError("a number is too large for the store: integers go up to 2**63 - 1") from error
    except UnicodeEncodeError as error:
        raise InputError(f"a text is not valid Unicode ({error.reason}) and cannot be stored") from error
    except UnicodeDecodeError as error:  # SQLite's message quotes a damaged definition
        raise RuntimeFailure(_DAMAGED.format(home=home, path=home / FILE_NAME, error="its schema cannot be read")) from error
    except sqlite3.Error as error:
        plain = _plain_error(home, error)
        if plain is None:
            raise
        raise plain from error


def _plain_error(home: Path, error: sqlite3.Error) -> PerdureError | None:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code; an error that does not come from SQLite has none
    if code == sqlite3.SQLITE_CONSTRAINT and str(error).startswith("FOREIGN KEY"):  # pysqlite3 does not report the extended code
        return RuntimeFailure("a write named an environment, version, task, job or episode that is not in the store: nothing was written")
    told = str(error)
    no_text = code == 0 and "decode" in told  # Python's own, for a text that is no UTF-8
    if no_text or "unsupported file format" in told or told == "malformed JSON":
        return RuntimeFailure(_DAMAGED.format(home=home, path=home / FILE_NAME, error=error))
    if code not in _SQLITE_ERRORS:
        return None
    kind, text = _SQLITE_ERRORS[code]
    return kind(text.format(home=home, path=home / FILE_NAME, error=error))
