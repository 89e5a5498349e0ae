"""When a home is ready: each thing that it needs is taken away once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from perdure.agent.home import HomeLock
from perdure.agent.telemetry.readiness import readiness
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.processes import beat
from perdure.memory.store import FILE_NAME, open_store


@contextmanager
def daemon(home: Path, state: str = "playing", actor: str | None = "playing") -> Iterator[None]:
    """This process holds the home as a daemon does, and says what one says."""
    with HomeLock(home):
        with open_store(home) as store:
            beat(store, "supervisor", os.getpid(), state, "for the test")
            if actor is not None:
                beat(store, "actor", os.getpid(), actor)
        yield


def test_a_daemon_whose_actor_plays_is_ready(home: Path) -> None:
    with daemon(home):
        assert readiness(home) == (True, "v1 serves; playing")
    with daemon(home, "learning", "paused"):
        assert readiness(home)[0], "a job has the device: the actor keeps its model"
    with daemon(home, "paused", "stopped"):
        assert readiness(home) == (True, "v1 serves; paused: for the test")


@pytest.mark.parametrize(
    ("state", "actor", "why"),
    [
        ("starting", "starting", "starting: for the test"),
        ("restarting", None, "restarting: for the test"),
        ("learning", "starting", "the actor has not loaded its model yet"),
        ("learning", None, "the actor has not loaded its model yet"),
    ],
)
def test_a_daemon_without_a_model_is_not_ready(home: Path, state: str, actor: str | None, why: str) -> None:
    with daemon(home, state, actor):
        assert readiness(home) == (False, why)


def test_found_an_actor_that_reported_before_its_supervisor_counts(home: Path) -> None:
    """A supervisor starts its children before its own first report."""
    with daemon(home):
        with open_store(home) as store, store.write() as conn:
            conn.execute("UPDATE process SET started_at = started_at - 1.5 WHERE name = 'actor'")
        assert readiness(home) == (True, "v1 serves; playing")


def test_an_actor_of_an_earlier_daemon_does_not_count(home: Path) -> None:
    with open_store(home) as store:
        beat(store, "actor", 1, "playing")
    with daemon(home, actor=None):
        assert readiness(home) == (False, "the actor has not loaded its model yet")


def test_a_home_without_a_daemon_is_not_ready(home: Path, tmp_path: Path) -> None:
    ready, why = readiness(home)
    assert (ready, why) == (False, "stopped: no daemon runs in this home; start one with `perdure run`")
    ready, why = readiness(tmp_path / "nothing")
    assert not ready
    assert why.startswith("no store in")


def test_a_silent_daemon_is_not_ready(home: Path) -> None:
    with daemon(home):
        with open_store(home) as store, store.write() as conn:
            conn.execute("UPDATE process SET beat_at = ? WHERE name = 'supervisor'", (time.time() - 61,))
        ready, why = readiness(home)
    assert not ready
    assert "has written nothing for 61 s" in why


def test_no_version_serves(home: Path) -> None:
    with daemon(home):
        with open_store(home) as store, store.write() as conn:
            conn.execute("UPDATE version SET state = 'retired'")
        ready, why = readiness(home)
    assert not ready
    assert "no version" in why


def test_a_database_that_stays_locked_is_not_ready_and_is_ready_again_after(home: Path) -> None:
    with daemon(home):
        other = sqlite3.connect(home / FILE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        ready, why = readiness(home)
        assert not ready
        assert "stays locked" in why
        other.execute("ROLLBACK")
        other.close()
        assert readiness(home)[0]


def test_an_older_schema_is_not_ready(home: Path) -> None:
    with open_store(home) as store:
        store.conn.execute("PRAGMA user_version = 6")
    ready, why = readiness(home)
    assert not ready
    assert "has schema 6" in why
