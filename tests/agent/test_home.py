"""The lock of a home, its paths, and what is refused before anything is written."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from perdure.agent.home import HomeBusy, HomeLock, cache_dir, default_home, lock_holder, lock_is_held, open_or_create
from perdure.memory.errors import InputError
from perdure.memory.store import create_store

HOLD = """
import sys, time
from pathlib import Path
from perdure.agent.home import HomeLock
HomeLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def held_by_another(home: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(home)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    with HomeLock(tmp_path), pytest.raises(HomeBusy, match=f"in use by process {os.getpid()}.*--home"):
        HomeLock(tmp_path).acquire()
    assert not lock_is_held(tmp_path)
    HomeLock(tmp_path).acquire()


@pytest.mark.processes
def test_a_lock_ends_with_its_process_however_it_dies(tmp_path: Path) -> None:
    holder = held_by_another(tmp_path)
    try:
        assert lock_holder(tmp_path) == holder.pid
        with pytest.raises(HomeBusy, match=str(holder.pid)):
            HomeLock(tmp_path).acquire()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert not lock_is_held(tmp_path)
    with HomeLock(tmp_path):
        assert lock_holder(tmp_path) == os.getpid()


def test_those_who_ask_do_not_take_each_other_for_a_holder(tmp_path: Path) -> None:
    home = tmp_path
    with HomeLock(home):
        pass
    seen: list[bool] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            seen.append(lock_is_held(home))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join()
    assert seen
    assert not any(seen)


def test_the_lock_can_be_taken_while_somebody_keeps_asking(tmp_path: Path) -> None:
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            lock_is_held(tmp_path)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(20):
            with HomeLock(tmp_path):
                assert lock_holder(tmp_path) == os.getpid()
    finally:
        stop.set()
        thread.join()


def test_the_home_and_the_cache_are_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERDURE_HOME", raising=False)
    monkeypatch.delenv("PERDURE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_home() == Path(".perdure")
    if sys.platform == "linux":
        assert cache_dir() == tmp_path / "perdure"
    monkeypatch.setenv("PERDURE_HOME", "~/agent")
    monkeypatch.setenv("PERDURE_CACHE", str(tmp_path / "models"))
    assert default_home() == Path.home() / "agent"
    assert cache_dir() == tmp_path / "models"


def test_a_home_of_another_program_or_a_newer_one_is_left_as_it_is(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with sqlite3.connect(other / "perdure.db") as conn:
        conn.execute("CREATE TABLE theirs (x)")
    conn.close()
    newer = tmp_path / "newer"
    with create_store(newer) as store:
        store.db.execute("PRAGMA user_version = 99")
    (newer / "run").rmdir()
    for home, message in ((other, "another program's database"), (newer, "a newer Perdure wrote it")):
        before = sorted(home.iterdir())
        with pytest.raises(InputError, match=message):
            HomeLock(home).acquire()
        assert sorted(home.iterdir()) == before


def test_a_missing_store_is_made_and_an_existing_one_is_opened(tmp_path: Path) -> None:
    home = tmp_path / "home"
    open_or_create(home).close()
    assert not lock_is_held(home)
    with HomeLock(home), open_or_create(home) as store:
        assert store.rows("PRAGMA user_version")[0][0] >= 1
