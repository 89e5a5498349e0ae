"""Backups: what is copied while others write is of one moment, restores, and never has a name before it is whole."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.memory.everything import CLOCK
from tests.memory.test_migrations import contents

from perdure.memory import versions
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.processes import record_event
from perdure.memory.schema import PAGE_SIZE_BYTES
from perdure.memory.store import FILE_NAME, Store, checkpoint, create_store, open_store
from perdure.memory.trajectories.episodes import counts
from perdure.memory.upkeep.backup import backup
from perdure.memory.upkeep.integrity import check


def restore(backup: Path, home: Path) -> None:
    """As docs/store.md says it."""
    home.mkdir()
    shutil.copyfile(backup, home / FILE_NAME)
    shutil.copytree(f"{backup}.versions", home / "versions")


def test_a_backup_restores(full: Store, tmp_path: Path) -> None:
    made = backup(full, tmp_path / "b.db")
    assert (made.episodes, made.turns, made.versions, made.lacks) == (12, 15, ("v1", "v2", "v3"), ())
    assert (tmp_path / "b.db").read_bytes()[18:20] == b"\1\1", "it needs no log"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.db", "b.db.versions", "home"], "one file, and the adapters"
    restore(tmp_path / "b.db", tmp_path / "again")
    with create_store(tmp_path / "again") as again:
        assert contents(again) == contents(full)
        assert check(again, CLOCK) == []
        assert [row[0] for row in again.rows("PRAGMA auto_vacuum") + again.rows("PRAGMA page_size")] == [2, PAGE_SIZE_BYTES]
        record_event(again, "start", "supervisor", "it goes on")


def test_a_backup_is_readable_by_its_owner_alone(full: Store, tmp_path: Path) -> None:
    backup(full, tmp_path / "b.db")
    assert stat.S_IMODE((tmp_path / "b.db").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "b.db.versions").stat().st_mode) == 0o700


def test_a_backup_holds_what_is_in_the_log_still(full: Store, tmp_path: Path) -> None:
    checkpoint(full)
    with open_store(full.home) as other:
        record_event(other, "late", "test", "not in the database file yet")
    backup(full, tmp_path / "b.db")
    conn = sqlite3.connect(str(tmp_path / "b.db"))
    assert conn.execute("SELECT count(*) FROM event WHERE kind = 'late'").fetchone() == (1,)
    conn.close()


WRITER = """
import sys
from pathlib import Path
from perdure.memory.store import open_store
store = open_store(Path(sys.argv[1]))
n = 0
while True:
    with store.write() as conn:
        for part in range(3):
            conn.execute("INSERT INTO event (kind, subject, message, happened_at) VALUES ('beat', ?, ?, 1)", (str(n), "x" * 20000))
    n += 1
    print(n, flush=True)
"""


@pytest.mark.processes
def test_a_backup_taken_while_others_write_is_of_one_moment(full: Store, tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(full.home)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    try:
        acknowledged = 0
        for n in range(4):
            while acknowledged < 100 * (n + 1):
                acknowledged = int(writer.stdout.readline())
            backup(full, tmp_path / f"b{n}.db")
            conn = sqlite3.connect(str(tmp_path / f"b{n}.db"))
            kept = dict(conn.execute("SELECT subject, count(*) FROM event WHERE kind = 'beat' GROUP BY subject").fetchall())
            conn.close()
            assert set(kept.values()) == {3}, "no write is half there"
            assert {str(k) for k in range(acknowledged)} <= set(kept), "what was acknowledged before is there"
    finally:
        writer.kill()
        writer.stdout.close()
        writer.wait(timeout=30)


def test_a_backup_does_not_overwrite_without_force(full: Store, tmp_path: Path) -> None:
    (tmp_path / "b.db").write_text("mine")
    with pytest.raises(InputError, match="exists already: name another file, or give --force"):
        backup(full, tmp_path / "b.db")
    assert (tmp_path / "b.db").read_text() == "mine"
    backup(full, tmp_path / "b.db", replace=True)
    assert (tmp_path / "b.db").read_bytes()[:6] == b"SQLite"
    for wrong, message in ((tmp_path, "is a folder"), (tmp_path / "nowhere" / "b.db", "is not a folder")):
        with pytest.raises(InputError, match=message):
            backup(full, wrong)


def test_a_backup_is_never_written_over_a_database_in_use(full: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is inside the home"):
        backup(full, full.home / FILE_NAME, replace=True)
    other = tmp_path / "other"
    with create_store(other), pytest.raises(InputError, match=r"is a database in use, or was not closed: perdure.db-wal is"):
        backup(full, other / FILE_NAME, replace=True)


def test_adapters_are_copied_once(full: Store, tmp_path: Path) -> None:
    backup(full, tmp_path / "b.db")
    kept = tmp_path / "b.db.versions" / "v1" / "adapter_model.safetensors"
    before = kept.stat()
    backup(full, tmp_path / "b.db", replace=True)
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    kept.write_text("damaged")
    backup(full, tmp_path / "b.db", replace=True)
    assert kept.read_bytes() == (full.home / "versions" / "v1" / "adapter_model.safetensors").read_bytes()


def test_adapters_of_another_home_are_not_overwritten_without_force(full: Store, tmp_path: Path) -> None:
    (tmp_path / "b.db.versions" / "v1").mkdir(parents=True)
    (tmp_path / "b.db.versions" / "v1" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"v1 exists with other content"):
        backup(full, tmp_path / "b.db")
    assert not (tmp_path / "b.db").exists()
    assert (tmp_path / "b.db.versions" / "v1" / "manifest.json").read_text() == "{}"


def test_a_backup_says_what_it_lacks(full: Store, tmp_path: Path) -> None:
    (full.home / "versions" / "v2" / "adapter_model.safetensors").write_text("damaged")
    assert backup(full, tmp_path / "a.db").lacks == (), "nobody misses a rejected version"
    shutil.rmtree(full.home / "versions" / "v2")
    full.rows("UPDATE version SET state = 'retired', pinned = 0 WHERE name = 'v3'")
    (full.home / "versions" / "v3").rename(tmp_path / "v3")
    assert backup(full, tmp_path / "a.db", replace=True).lacks == (), "what nothing may load may be gone"
    (tmp_path / "v3").rename(full.home / "versions" / "v3")
    (full.home / "versions" / "v1" / "adapter_model.safetensors").write_text("damaged")
    made = backup(full, tmp_path / "b.db")
    assert [lack.version for lack in made.lacks] == ["v1"]
    assert made.versions == ("v3",)
    assert "sha256 differs" in made.as_json()["lacks"][0]["why"]
    assert sorted(path.name for path in (tmp_path / "b.db.versions").iterdir()) == ["v3"]


def test_a_home_without_adapters_has_a_backup_without_a_folder(store: Store, tmp_path: Path) -> None:
    assert backup(store, tmp_path / "b.db").versions == ()
    assert not (tmp_path / "b.db.versions").exists()


def test_a_damaged_store_has_no_backup(full: Store, tmp_path: Path) -> None:
    with full.write() as conn:
        conn.executemany(
            "INSERT INTO event (kind, subject, message, happened_at) VALUES ('a', 'a', ?, 1)", [(str(n) * 40,) for n in range(2000)]
        )
    checkpoint(full)
    home = full.home
    full.close()
    size = (home / FILE_NAME).stat().st_size
    with (home / FILE_NAME).open("r+b") as file:
        file.seek(size - 10 * PAGE_SIZE_BYTES)
        file.write(os.urandom(9 * PAGE_SIZE_BYTES))
    with open_store(home) as damaged, pytest.raises(RuntimeFailure, match=r"(is damaged|malformed)"):
        backup(damaged, tmp_path / "b.db")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


BACKUP = """
import resource, sys
from pathlib import Path
from perdure.memory.upkeep.backup import backup
from perdure.memory.errors import RuntimeFailure
from perdure.memory.store import open_store
store = open_store(Path(sys.argv[1]))
if len(sys.argv) > 3:
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    backup(store, Path(sys.argv[2]), replace=True)
except RuntimeFailure as error:
    print(error)
"""


@pytest.mark.processes
def test_a_backup_cut_off_leaves_the_one_before(full: Store, tmp_path: Path) -> None:
    backup(full, tmp_path / "b.db")
    before = (tmp_path / "b.db").read_bytes()
    record_event(full, "late", "test", "after the first backup")
    fault = {**os.environ, "PERDURE_FAULT": "mid-backup"}
    done = subprocess.run([sys.executable, "-c", BACKUP, str(full.home), str(tmp_path / "b.db")], env=fault, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "b.db").read_bytes() == before
    (tmp_path / f".making-b.db-{os.getpid() + 1}-x").write_text("somebody else's")
    backup(full, tmp_path / "b.db", replace=True)
    assert (tmp_path / "b.db").read_bytes() != before
    (tmp_path / f".making-b.db-{os.getpid() + 1}-x").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.db", "b.db.versions", "home"], "what was left is gone"


@pytest.mark.processes
def test_a_disk_that_is_full_leaves_nothing(full: Store, tmp_path: Path) -> None:
    """As a file-size limit of the process, which fails as a full disk does."""
    command = [sys.executable, "-c", BACKUP, str(full.home), str(tmp_path / "b.db"), "100000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "no backup was made" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_restored_home_goes_on(full: Store, tmp_path: Path) -> None:
    """Numbers and pointers go on where the backup was taken."""
    backup(full, tmp_path / "b.db")
    restore(tmp_path / "b.db", tmp_path / "again")
    with create_store(tmp_path / "again") as again:
        assert versions.serving(again).name == "v1"
        assert versions.rollback(again, None, "as a test").name == "v0"
        assert versions.next_name(again) == "v4"
        assert counts(again) == counts(full)
