"""The file itself: what cannot be changed later, transactions, death in the middle of a write, and errors in plain words."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3 as other_sqlite
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from perdure.memory.errors import InputError, PerdureError, RuntimeFailure, Unavailable
from perdure.memory.json_value import to_json
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.schema import APPLICATION_ID, MIGRATIONS, PAGE_SIZE_BYTES
from perdure.memory.store import Store, checkpoint, create_store, give_back, open_store

INSERT = "INSERT INTO event (kind, subject, message, happened_at) VALUES ('a', 'a', ?, 1)"


def pragma(store: Store, name: str) -> int | str:
    return store.rows(f"PRAGMA {name}")[0][0]  # type: ignore[no-any-return]


def one_line(error: PerdureError) -> str:
    text = str(error)
    assert text
    assert "\n" not in text
    return text


def test_a_fresh_file_has_what_cannot_be_changed_later(store: Store) -> None:
    assert pragma(store, "page_size") == PAGE_SIZE_BYTES == 16384
    assert pragma(store, "auto_vacuum") == 2
    assert pragma(store, "application_id") == APPLICATION_ID
    assert pragma(store, "user_version") == len(MIGRATIONS)
    header = (store.home / "perdure.db").read_bytes()[:100]
    assert int.from_bytes(header[16:18], "big") == 16384
    assert int.from_bytes(header[64:68], "big") == 1, "incremental vacuum"
    lax = [row["name"] for row in store.rows("PRAGMA table_list") if row["type"] == "table" and not row["strict"]]
    assert lax == ["sqlite_schema", "sqlite_temp_schema"]


def test_every_connection_is_safe(store: Store) -> None:
    with open_store(store.home) as second:
        for each in (store, second):
            assert pragma(each, "journal_mode") == "wal"
            assert pragma(each, "synchronous") == 2
            assert pragma(each, "foreign_keys") == 1
        assert pragma(store, "wal_autocheckpoint") > 0  # type: ignore[operator]
        assert pragma(second, "wal_autocheckpoint") == 0


def test_creating_twice_changes_nothing(store: Store) -> None:
    with create_store(store.home) as again:
        assert [row["name"] for row in again.rows("SELECT name FROM environment")] == ["perdure:add", "perdure:sort?numbers=3"]
        assert [entry.name for entry in sorted(again.home.iterdir()) if entry.is_dir()] == ["logs", "run", "versions"]


def test_a_home_with_strange_letters_works(tmp_path: Path) -> None:
    home = tmp_path / "a b?c#d%41é"
    create_store(home).close()
    with open_store(home) as store:
        assert store.home == home
        assert (home / "perdure.db").is_file()


def test_a_failed_write_leaves_nothing(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError), store.write() as conn:
        conn.executemany(INSERT, [("first",), (None,)])
    assert store.rows("SELECT * FROM event") == []


def test_a_failed_inner_write_undoes_only_its_part(store: Store) -> None:
    with store.write() as conn:
        conn.execute(INSERT, ("outer",))
        with pytest.raises(sqlite3.IntegrityError), store.write() as inner:
            inner.executemany(INSERT, [("inner",), (None,)])
    assert [row["message"] for row in store.rows("SELECT message FROM event")] == ["outer"]


def test_strict_tables_refuse_wrong_types(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="cannot store TEXT"), store.write() as conn:
        conn.execute("INSERT INTO event (kind, subject, message, happened_at) VALUES ('a', 'a', 'a', 'yesterday')")


def test_a_checkpoint_moves_the_log_into_the_database(store: Store) -> None:
    with open_store(store.home) as second, second.write() as conn:
        conn.execute("CREATE TABLE big (x BLOB) STRICT")
        conn.execute("INSERT INTO big VALUES (zeroblob(1000000))")
    before = (store.home / "perdure.db").stat().st_size
    checkpoint(store)
    assert (store.home / "perdure.db").stat().st_size > before + 900_000


def test_free_pages_go_back_in_steps_of_the_asked_size(store: Store) -> None:
    with store.write() as conn:
        conn.execute("CREATE TABLE big (x BLOB) STRICT")
        conn.execute("INSERT INTO big VALUES (zeroblob(?))", (100 * PAGE_SIZE_BYTES,))
    with store.write() as conn:
        conn.execute("DROP TABLE big")
    free = pragma(store, "freelist_count")
    assert isinstance(free, int)
    assert free > 90
    assert [give_back(store, 40), give_back(store, 40), give_back(store, 40)] == [free - 40, free - 80, 0]


def test_a_read_is_of_one_moment(store: Store) -> None:
    with open_store(store.home) as second:
        with store.read():
            before = store.rows("SELECT count(*) FROM event")[0][0]
            with second.write() as conn:
                conn.execute(INSERT, ("meanwhile",))
            assert store.rows("SELECT count(*) FROM event")[0][0] == before
        assert store.rows("SELECT count(*) FROM event")[0][0] == before + 1


def test_numbers_that_json_lacks_become_null() -> None:
    assert to_json({"loss": float("nan"), "all": [1.5, float("inf")], "ok": True}) == '{"loss": null, "all": [1.5, null], "ok": true}'


WRITER = """
import sys
from pathlib import Path
from perdure.memory.store import open_store
store = open_store(Path(sys.argv[1]))
for n in range(1_000_000):
    with store.write() as conn:
        for part in range(3):
            conn.execute("INSERT INTO event (kind, subject, message, happened_at) VALUES ('beat', ?, 'x', 1)", (str(n),))
    print(n, flush=True)
"""


@pytest.mark.processes
def test_a_killed_writer_loses_nothing_acknowledged_and_keeps_nothing_half(store: Store) -> None:
    for _ in range(3):
        with store.write() as conn:
            conn.execute("DELETE FROM event")
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(store.home)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
        writer.stdout.close()
        assert writer.wait(timeout=30) == -signal.SIGKILL
        kept = {int(row["subject"]): row["parts"] for row in store.rows("SELECT subject, count(*) AS parts FROM event GROUP BY subject")}
        assert set(acknowledged) <= set(kept)
        assert set(kept.values()) == {3}
        assert len(kept) - len(acknowledged) in (0, 1), "at most the write that was under way"
    assert store.rows("PRAGMA integrity_check")[0][0] == "ok"


def test_no_home(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no store in .*perdure run") as caught:
        open_store(tmp_path / "nowhere")
    one_line(caught.value)
    assert not (tmp_path / "nowhere").exists()


def test_another_programs_database(tmp_path: Path) -> None:
    with other_sqlite.connect(tmp_path / "perdure.db") as conn:
        conn.execute("CREATE TABLE theirs (x)")
    conn.close()
    before = (tmp_path / "perdure.db").read_bytes()
    for opens in (open_store, create_store):
        with pytest.raises(InputError, match="another program's database") as caught:
            opens(tmp_path)
        one_line(caught.value)
    assert (tmp_path / "perdure.db").read_bytes() == before


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "perdure.db").write_text("these are notes\n" * 500)
    with pytest.raises(InputError, match="is not a database") as caught:
        create_store(tmp_path)
    one_line(caught.value)


def test_a_damaged_database(home: Path) -> None:
    with create_store(home) as store, store.write() as conn:
        conn.executemany(INSERT, [(str(n) * 40,) for n in range(20_000)])
    size_bytes = (home / "perdure.db").stat().st_size
    with (home / "perdure.db").open("r+b") as file:
        file.seek(size_bytes // 2)  # the schema is in the first half: the store opens
        file.write(os.urandom(size_bytes - size_bytes // 2))
    with open_store(home) as store, pytest.raises(RuntimeFailure, match=r"damaged.*restore a backup") as caught:
        store.rows("SELECT count(message) FROM event")
    one_line(caught.value)


def test_a_newer_schema(store: Store) -> None:
    store.conn.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    for opens in (open_store, create_store):
        with pytest.raises(InputError, match="a newer Perdure wrote it") as caught:
            opens(store.home)
        one_line(caught.value)


def test_a_store_that_is_not_made_yet(home: Path) -> None:
    home.mkdir()
    (home / "perdure.db").touch()
    with pytest.raises(RuntimeFailure, match="perdure run") as caught:
        open_store(home)
    one_line(caught.value)
    create_store(home).close()
    open_store(home).close()


def test_a_creation_that_was_cut_short_is_made_again(home: Path) -> None:
    """The moment between the file's header and its first table."""
    home.mkdir()
    conn = sqlite3.connect(str(home / "perdure.db"), isolation_level=None)
    for setting in (f"page_size = {PAGE_SIZE_BYTES}", "auto_vacuum = INCREMENTAL", "journal_mode = WAL"):
        conn.execute(f"PRAGMA {setting}").fetchall()
    conn.close()
    with create_store(home) as store:
        assert (pragma(store, "page_size"), pragma(store, "auto_vacuum"), pragma(store, "user_version")) == (16384, 2, len(MIGRATIONS))


OPENER = """
import sys
from pathlib import Path
from perdure.memory.errors import RuntimeFailure
from perdure.memory.store import create_store, open_store
for opens in (open_store, create_store):
    try:
        opens(Path(sys.argv[1])).close()
    except RuntimeFailure as error:
        print(error)
"""


def in_read_only(home: Path, script: str) -> str:
    """Run a script that finds `home` on a read-only mount (as root), or without the right to write (as anybody else)."""
    if os.geteuid() != 0:
        home.chmod(0o500)
        (home / "perdure.db").chmod(0o400)
        done = subprocess.run([sys.executable, "-c", script, str(home)], capture_output=True, text=True, timeout=60)
        home.chmod(0o700)
    else:
        if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
            pytest.skip("this machine does not allow mounts")
        mount = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -c "$3" "$1"'
        command = ["unshare", "-m", "sh", "-c", mount, "sh", str(home), sys.executable, script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.processes
def test_a_read_only_home(home: Path) -> None:
    create_store(home).close()
    message = in_read_only(home, OPENER).splitlines()
    assert len(message) == 2
    assert all("read-only" in line and str(home) in line for line in message)


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeFailure, match="cannot make the home") as caught:
        create_store(tmp_path / "file" / "home")
    one_line(caught.value)


def test_a_file_that_becomes_read_only_is_named_at_the_write(store: Store) -> None:
    store.conn.execute("PRAGMA query_only = ON")
    with pytest.raises(RuntimeFailure, match="read-only") as caught, store.write() as conn:
        conn.execute(INSERT, ("a",))
    one_line(caught.value)


def test_a_full_disk_keeps_nothing_of_the_write_and_is_survived(store: Store) -> None:
    store.conn.execute(f"PRAGMA max_page_count = {pragma(store, 'page_count')}").fetchall()
    with pytest.raises(RuntimeFailure, match=r"disk of .* is full") as caught, store.write() as conn:
        conn.executemany(INSERT, [("small",), ("x" * 1_000_000,)])
    one_line(caught.value)
    assert store.rows("SELECT * FROM event") == []
    store.conn.execute("PRAGMA max_page_count = 1000000").fetchall()
    with store.write() as conn:
        conn.execute(INSERT, ("x" * 1_000_000,))
    assert len(store.rows("SELECT * FROM event")) == 1


def test_a_lock_that_is_never_given_back_is_an_error_in_words(store: Store) -> None:
    with open_store(store.home) as second, store.write():
        second.conn.execute("PRAGMA busy_timeout = 20")
        with pytest.raises(RuntimeFailure, match="locked by another program") as caught, second.write():
            pass
        one_line(caught.value)


def test_writers_wait_for_each_other(store: Store) -> None:
    def add(home: Path) -> None:
        with open_store(home) as mine:
            for _ in range(20):
                with mine.write() as conn:
                    (n,) = conn.execute("SELECT count(*) FROM event").fetchone()
                    conn.execute(INSERT, (str(n),))

    threads = [threading.Thread(target=add, args=(store.home,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [int(row["message"]) for row in store.rows("SELECT message FROM event ORDER BY id")] == list(range(60))


@pytest.mark.parametrize(("value", "message"), [(2**63, "too large"), ("\ud800", "not valid Unicode")])
def test_what_cannot_be_stored_is_bad_input(store: Store, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        store.rows("SELECT ?", (value,))
    one_line(caught.value)


def test_a_row_that_names_a_missing_row_is_refused_in_words(store: Store) -> None:
    with pytest.raises(RuntimeFailure, match="not in the store") as caught, store.write() as conn:
        conn.execute("UPDATE environment SET anchor = 'v99'")
    one_line(caught.value)


def test_errors_are_told_by_their_code_and_not_by_their_text(store: Store) -> None:
    text = "disk is full, locked, readonly, malformed, not a database, FOREIGN KEY"
    with store.write() as conn:
        conn.execute(f"CREATE TRIGGER refuses BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, '{text}'); END")
    with pytest.raises(sqlite3.IntegrityError, match=text), store.write() as conn:
        conn.execute(INSERT, ("a",))


def test_a_file_that_cannot_be_opened(home: Path) -> None:
    create_store(home).close()
    (home / "perdure.db-wal").mkdir()  # SQLite wants to write its log there
    with pytest.raises(Unavailable, match=r"cannot open .*perdure\.db for writing") as caught:
        open_store(home)
    one_line(caught.value)


ERRORS = """
import sys
from pathlib import Path
if sys.argv[2] == "standard":
    sys.modules["pysqlite3"] = sys.modules["sqlean"] = None
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.errors import PerdureError
from perdure.memory.store import create_store, open_store
print(sqlite3.__name__)
home = Path(sys.argv[1])
store, other = create_store(home), open_store(home)
other.conn.execute("PRAGMA busy_timeout = 20")
insert = "INSERT INTO event (kind, subject, message, happened_at) VALUES ('a', 'a', ?, 1)"

def show(write, *arguments):
    try:
        with write() as conn:
            conn.execute(*arguments)
    except (PerdureError, sqlite3.Error) as error:
        print(f"{type(error).__name__}: {error}")

columns = "name, threshold, reward_low, reward_high, anchor, registered_at"
show(store.write, f"INSERT INTO environment ({columns}) VALUES ('e', 1, 0, 1, 'v99', 1)")
show(store.write, insert, (None,))
with store.write():
    show(other.write, insert, ("a",))
pages = store.rows("PRAGMA page_count")[0][0]
store.conn.execute(f"PRAGMA max_page_count = {pages}").fetchall()
show(store.write, insert, ("x" * 1_000_000,))
store.conn.execute("PRAGMA query_only = ON")
show(store.write, insert, ("a",))
"""


@pytest.mark.processes
@pytest.mark.parametrize(("library", "module"), [("standard", "sqlite3"), ("installed", sqlite3.__name__)])
def test_both_sqlite_libraries_give_the_same_errors(home: Path, library: str, module: str) -> None:
    done = subprocess.run([sys.executable, "-c", ERRORS, str(home), library], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    name, *lines = done.stdout.splitlines()
    assert name == module
    expected = (
        "RuntimeFailure: a write named",
        "IntegrityError: NOT NULL",
        "Unavailable: .* stays locked",
        "Unavailable: the disk",
        "Unavailable: cannot write",
    )
    assert len(lines) == len(expected)
    for line, beginning in zip(lines, expected, strict=True):
        assert re.match(beginning, line), line
