from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.agent.supervision.children import Backoff, Child, Exit, end_children, on_signals

pytestmark = pytest.mark.processes

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
if sys.argv[1:] == ["stay"]:
    time.sleep(60)
raise SystemExit("this is the reason")
"""

STARTER = """
import os, signal, sys
from pathlib import Path
from perdure.agent.supervision.children import Child
Child("a", "module_under_test", [], Path(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""
ORPHAN = """
import os, time
from perdure.agent.processes.child import PARENT_VARIABLE, parent_pid
while os.getppid() == int(os.environ[PARENT_VARIABLE]):
    time.sleep(0.01)
print(parent_pid(), flush=True)
"""


@pytest.fixture
def spawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Child]:
    """Start a module of the given text."""
    (tmp_path / "logs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # the working folder itself is not looked in first

    def start(text: str, *arguments: str) -> Child:
        (tmp_path / "module_under_test.py").write_text(text)
        return Child("a", "module_under_test", arguments, tmp_path)

    return start


def ended(child: Child, patience_s: float = 60.0) -> Exit:
    deadline = time.monotonic() + patience_s
    while (found := child.poll()) is None:
        assert time.monotonic() < deadline, "it did not end"
        time.sleep(0.02)
    return found


def first_line(home: Path) -> str:
    log = home / "logs" / "a.log"
    deadline = time.monotonic() + 60
    while "\n" not in log.read_text():
        assert time.monotonic() < deadline, "it wrote nothing"
        time.sleep(0.02)
    return log.read_text().splitlines()[0]


def lives(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_end_tells_the_code_and_the_last_line_of_this_start(spawn: Callable[..., Child], tmp_path: Path) -> None:
    (tmp_path / "logs" / "a.log").write_text("from an earlier start\n")
    assert str(ended(spawn("raise SystemExit('no such model\\n\\n')"))) == "ended with exit code 1: no such model"
    assert ended(spawn("")) == Exit(code=0, last_line="")


def test_working_folder_hides_no_module_of_python(spawn: Callable[..., Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('somebody else')")
    monkeypatch.delenv("PYTHONPATH")
    child = Child("a", "perdure.agent.processes.job", ["--help"], tmp_path)
    assert ended(child, patience_s=60.0).code == 0


def test_signal_that_killed_it_is_named(spawn: Callable[..., Child], tmp_path: Path) -> None:
    child = spawn(STUBBORN)
    first_line(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    assert str(ended(child)) == "was ended by SIGKILL: deaf"


def test_deaf_child_is_killed_after_the_grace(spawn: Callable[..., Child], tmp_path: Path) -> None:
    child = spawn(STUBBORN)
    first_line(tmp_path)
    began = time.monotonic()
    end_children([child], 0.5, hurry=lambda: False)
    assert 0.5 <= time.monotonic() - began < 15
    assert ended(child).code == -signal.SIGKILL


def test_hurry_leaves_no_grace(spawn: Callable[..., Child], tmp_path: Path) -> None:
    child = spawn(STUBBORN)
    first_line(tmp_path)
    began = time.monotonic()
    end_children([child], 30, hurry=lambda: True)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("stay", [True, False], ids=["stopped", "died"])
def test_nothing_of_a_child_is_left_behind(spawn: Callable[..., Child], tmp_path: Path, stay: bool) -> None:
    child = spawn(PARENT, *(["stay"] if stay else []))
    grandchild = int(first_line(tmp_path))
    if stay:
        end_children([child], 5, hurry=lambda: False)
    assert ended(child).code == (-signal.SIGTERM if stay else 1)
    deadline = time.monotonic() + 30
    while lives(grandchild) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not lives(grandchild)


def test_waiting_doubles_until_a_child_has_lived() -> None:
    backoff = Backoff()
    assert backoff.ready()
    assert [backoff.died(0.1) for _ in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert not backoff.ready()
    assert backoff.deaths == 4
    assert backoff.died(Backoff.LIVED_S + 1) == 0.5
    assert backoff.deaths == 1
    assert max(backoff.died(0) for _ in range(50)) == Backoff.LONGEST_S


def test_waiting_unavailable_is_short_and_is_not_counted() -> None:
    backoff = Backoff()
    assert [backoff.died(0.1, unavailable=True) for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff.deaths == 0
    backoff.died(0.1)
    assert backoff.deaths == 1


def test_signals_are_handed_over_and_handlers_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    heard: list[str] = []
    with on_signals(lambda number: heard.append("x")):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert heard == ["x", "x"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_long_log_of_a_running_child_is_set_aside(spawn: Callable[..., Child], tmp_path: Path) -> None:
    child = spawn("import time\nprint('x' * 5 * 2**20, flush=True)\ntime.sleep(1)\nprint('last words', flush=True)")
    said = first_line(tmp_path)
    child.trim_log()
    assert (tmp_path / "logs" / "a.log.1").read_text() == said + "\n"
    assert (tmp_path / "logs" / "a.log").read_text() == ""
    assert ended(child).last_line == "last words"
    assert (tmp_path / "logs" / "a.log").read_text() == "last words\n"


def test_a_child_whose_parent_died_before_it_could_look_knows_who_that_was(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "module_under_test.py").write_text(ORPHAN)
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)], env={**os.environ, "PYTHONPATH": search_path(tmp_path)})
    assert starter.wait(timeout=30) == -signal.SIGKILL
    assert first_line(tmp_path) == str(starter.pid)


def search_path(folder: Path) -> str:
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
