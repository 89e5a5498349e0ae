"""Processes that are run as children: when they end, and with which exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

CHILD = """
import os, sys, time
from perdure.agent.processes.child import run_child
from perdure.memory.errors import InputError

def ready():
    print("ready", flush=True)

def loads(stop):
    with stop.at_once():
        ready()
        time.sleep(60)

def plays(stop):
    ready()
    while not stop():
        time.sleep(0.01)
    print("gave its work back", flush=True)

def is_asked_before_it_loads(stop):
    stop.ask()
    with stop.at_once():
        ready()

def cannot_work(stop):
    assert sys.path[-1] == ""
    raise InputError("no such model")

sys.exit(run_child(globals()[sys.argv[1]]))
"""
STARTER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.stdin.read(), "plays"])
time.sleep(60)
"""


def started(work: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", CHILD, work], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if work in ("loads", "plays"):
        assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("work", "output"), [("loads", ""), ("plays", "gave its work back\n")])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_at_once_only_what_has_begun_nothing(work: str, output: str, number: signal.Signals) -> None:
    process = started(work)
    process.send_signal(number)
    assert process.communicate(timeout=30) == (output, "")
    assert process.returncode == 0


def test_a_child_that_was_asked_to_end_loads_nothing() -> None:
    process = started("is_asked_before_it_loads")
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


def test_an_error_is_a_line_and_an_exit_code() -> None:
    process = started("cannot_work")
    assert process.communicate(timeout=30) == ("", "error: no such model\n")
    assert process.returncode == 2


def test_a_child_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("w") as out:
        parent = subprocess.Popen([sys.executable, "-c", STARTER], stdin=subprocess.PIPE, stdout=out, env=os.environ, text=True)
    assert parent.stdin is not None
    parent.stdin.write(CHILD)
    parent.stdin.close()
    wait_for(output, "ready\n")
    parent.kill()
    parent.wait()
    wait_for(output, "ready\ngave its work back\n")


def test_children_know_nothing_of_their_supervisor() -> None:
    folder = Path(__file__).parents[3] / "agent" / "processes"
    assert [file.name for file in folder.glob("*.py") if "perdure.agent.supervision" in file.read_text()] == []


def wait_for(file: Path, text: str) -> None:
    deadline = time.monotonic() + 30
    while file.read_text() != text:
        assert time.monotonic() < deadline, file.read_text()
        time.sleep(0.02)
