"""Every command that changes a home leaves a row, with the user's name; those that only read leave none."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.agent.conftest import ADD, Call
from tests.learners.panel.panel_files import HEADER, SNOW, written
from tests.memory.exchange.test_import_traces import GOOD, jsonl
from tests.test_docs import commands

from perdure.agent.home import HomeLock
from perdure.memory import versions
from perdure.memory.changes import list_changes
from perdure.memory.jobs import list_jobs
from perdure.memory.store import open_store

READS = {
    "init", "config show", "doctor", "status", "job list", "job show", "change list", "task list", "episode list", "episode show",
    "version list", "sql", "version show", "version export", "store check", "store backup", "store export", "study list", "study report",
    "study compare", "report", "env list", "env check", "env play",
}  # fmt: skip
ELSEWHERE = {"run", "web", "demo", "bench", "study run"}
"""What runs by itself: it has the event log; or homes of its own."""

WRITES: dict[str, tuple[Sequence[str], str, str | None]] = {
    "pause": (["pause", "play", "--reason", "a look"], "play", "a look"),
    "resume": (["resume", "--reason", "seen"], "play", "seen"),
    "task add": (["task", "add", ADD, "--seed", "3"], ADD, None),
    "episode reward": (["episode", "reward", "1", "0.5", "--source", "anna"], "episode 1", None),
    "version reject": (["version", "reject", "v2", "--reason", "rude"], "v2", "rude"),
    "version rollback": (["version", "rollback", "--reason", "worse"], "v0", "worse"),
    "version promote": (["version", "promote", "v1", "--reason", "better"], "v1", "better"),
    "version pin": (["version", "pin", "v1", "--reason", "for a paper"], "v1", "for a paper"),
    "version unpin": (["version", "pin", "v1", "--off"], "v1", None),
    "env retire": (["env", "retire", ADD, "--reason", "too easy"], ADD, "too easy"),
    "env restore": (["env", "restore", ADD], ADD, None),
    "store import": (["store", "import", "traces.jsonl"], "batch 1", None),
    "store archive": (["store", "archive", "--older-than", "30d"], "store", None),
    "store prune": (["store", "prune", "--keep-episodes", "5"], "store", None),
    "version gc": (["version", "gc"], "2 folders", None),
    "panel add": (["panel", "add", "colours.jsonl"], "colours", None),
}
"""In their order: what is called, the subject of the row, and its reason."""
QUEUE = {"learn", "gate", "probe", "panel show", "job cancel", "version import"}
"""Tested on their own, below and in `tests/agent/commands/test_version_export_command.py`."""


def test_each_command_is_known_to_write_or_to_read() -> None:
    written = {*WRITES, *QUEUE} - {"version unpin"}
    assert {path for path, _ in commands()} - (READS | ELSEWHERE | written) == set(), "say of a new one which it is"
    assert not READS & written


def test_every_command_that_changes_a_home_leaves_a_row(perdure: Call, home: Path, tmp_path: Path) -> None:
    jsonl(tmp_path / "traces.jsonl", GOOD)
    written(
        tmp_path,
        [HEADER, *({**SNOW, "id": f"colours-{n}", "prompt": f"What colour is snow in year {n}?"} for n in range(10, 30))],
        "colours",
    )
    user = pwd.getpwuid(os.getuid()).pw_name
    wanted = []
    for what, (arguments, subject, reason) in WRITES.items():
        done = perdure(*arguments)
        assert (done.code, done.err) == (0, done.err), (what, done)
        wanted.append((user, "command", what, subject, reason))
        with open_store(home) as store:
            assert [(one.who, one.via, one.what, one.subject, one.reason) for one in reversed(list_changes(store))] == wanted
    listed = json.loads(perdure("change", "list", "--json", "--limit", "3").out)
    assert [row["what"] for row in listed] == ["panel add", "version gc", "store prune"]
    table = perdure("change", "list").out
    assert all(f"{one[2]}" in table for one in wanted)


def test_a_command_that_is_refused_leaves_none(perdure: Call, home: Path) -> None:
    for arguments in (
        ["pause", "--reason", " "],
        ["resume"],
        ["task", "add", ADD, "--seed", "-4"],
        ["episode", "reward", "99", "1", "--source", "anna"],
        ["version", "promote", "v1", "--reason", "again"],
        ["version", "promote", "v3", "--reason", "after all"],
        ["version", "reject", "v3", "--reason", "again"],
        ["version", "reject", "v1", "--reason", "rude"],
        ["version", "rollback", "v2", "--reason", "it never served"],
        ["version", "rollback", "--reason", "x" * 2001],
        ["version", "pin", "v9"],
        ["env", "restore", ADD],
        ["env", "retire", "perdure:nothing"],
        ["job", "cancel", "7"],
        ["gate", "v9"],
        ["probe", "v9"],
        ["learn", "grpo", "--start", "v9"],
    ):
        done = perdure(*arguments)
        assert (done.code, done.out) == (2, ""), (arguments, done)
        assert done.err.startswith("perdure: ")
        assert done.err.count("\n") == 1, done.err
    for arguments in (["status"], ["change", "list"], ["job", "list"], ["version", "show", "v1"], ["store", "check", "--no-tokens"]):
        perdure(*arguments)
    with open_store(home) as store:
        assert list_changes(store) == []


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["learn", "grpo", "--target", ADD, "--option", "updates=2"], "learn"),
        (["gate", "v2", "--target", ADD], "gate"),
        (["probe"], "probe"),
        (["panel"], "panel"),
    ],
)
def test_a_command_that_follows_a_job_leaves_a_row_for_it_and_one_if_it_is_cancelled(
    home: Path, tmp_path: Path, perdure: Call, arguments: Sequence[str], what: str
) -> None:
    with HomeLock(home):  # as a daemon holds it
        running = subprocess.Popen(
            [sys.executable, "-m", "perdure", *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            with open_store(home) as store:
                deadline = time.monotonic() + 60
                while not list_jobs(store) and running.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.1)
                (job,) = list_jobs(store)
                (made,) = list_changes(store)
                assert (made.what, made.subject, made.reason) == (what, f"job {job.id}", None)
                done = perdure("job", "cancel", str(job.id), "--reason", "a test")
                assert (done.code, done.out) == (0, f"Job {job.id} is cancelled.\n")
            out, err = running.communicate(timeout=60)
        finally:
            if running.poll() is None:
                running.kill()
    assert (running.returncode, out) == (3, "")
    assert f"job {job.id} was cancelled: a test" in err
    with open_store(home) as store:
        assert [(one.what, one.reason) for one in list_changes(store)] == [("job cancel", "a test"), (what, None)]


@pytest.mark.processes
@pytest.mark.parametrize("fault", ["mid-change", "mid-rollback"])
def test_a_command_that_is_killed_in_the_middle_has_done_nothing(home: Path, tmp_path: Path, fault: str) -> None:
    command = [sys.executable, "-m", "perdure", "version", "rollback", "--reason", "worse"]
    dead = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PERDURE_FAULT": fault}, timeout=60, check=False)
    assert dead.returncode == -signal.SIGKILL
    with open_store(home) as store:
        assert versions.serving(store).name == "v1"
        assert list_changes(store) == []
    assert subprocess.run(command, cwd=tmp_path, timeout=60, check=False).returncode == 0
    with open_store(home) as store:
        assert versions.serving(store).name == "v0"
        assert [(one.what, one.reason) for one in list_changes(store)] == [("version rollback", "worse")]


@pytest.mark.processes
def test_of_commands_at_once_every_one_that_succeeds_has_its_row(home: Path, tmp_path: Path) -> None:
    """Two for each of these; of the moves one at most can be right."""
    asked = [["pause", "play", "--reason", "one"], ["version", "pin", "v1"], ["version", "rollback", "v0", "--reason", "one"]] * 2
    done: list[tuple[str, int]] = []

    def call(arguments: Sequence[str]) -> None:
        command = [sys.executable, "-m", "perdure", *arguments]
        code = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False).returncode
        done.append((" ".join(arguments[: 1 if arguments[0] == "pause" else 2]), code))

    threads = [threading.Thread(target=call, args=(arguments,)) for arguments in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open_store(home) as store:
        written = Counter(one.what for one in list_changes(store))
    assert written == Counter(what for what, code in done if code == 0)
    assert Counter(done)[("version rollback", 0)] == Counter(done)[("version rollback", 2)] == 1
