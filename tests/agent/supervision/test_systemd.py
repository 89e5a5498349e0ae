"""Messages to systemd over a real socket, and the unit that is shipped."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.agent.supervision.systemd import Systemd

UNIT = Path(__file__).parents[3] / "deploy" / "perdure.service"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(2.0)
        yield listening


def heard(manager: socket.socket) -> list[str]:
    found: list[str] = []
    manager.setblocking(False)
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def test_what_is_said_arrives_and_readiness_is_said_once(manager: socket.socket, tmp_path: Path) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())})
    assert systemd.watchdog_s == 30.0
    systemd.status("playing: the next\njob comes soon")
    systemd.ready()
    systemd.ready()
    systemd.alive()
    systemd.stopping()
    assert heard(manager) == ["STATUS=playing: the next job comes soon", "READY=1", "WATCHDOG=1", "STOPPING=1"]


def test_no_sign_of_life_is_given_if_none_was_asked_for(manager: socket.socket, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    for environment in ({}, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}):
        systemd = Systemd({"NOTIFY_SOCKET": address, **environment})
        assert systemd.watchdog_s is None
        systemd.alive()
    assert heard(manager) == []


def test_an_abstract_socket_is_reached() -> None:
    name = f"perdure-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        Systemd({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert heard(listening) == ["READY=1"]


def test_children_are_not_told_where_to_speak(tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    Systemd(environment)
    assert environment == {"HOME": "/"}


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    Systemd({}).ready()
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "nobody listens")}).ready()


def test_a_manager_that_does_not_listen_is_not_waited_for(manager: socket.socket, tmp_path: Path) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"})
    for _ in range(5000):  # more than its queue takes
        systemd.alive()
    assert "WATCHDOG=1" in heard(manager)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a program that is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text, replaced = re.subn(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text())
    assert replaced == 1
    path = tmp_path / UNIT.name
    path.write_text(text)
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.processes
def test_the_unit_holds_nothing_that_systemd_does_not_know(unit: Path) -> None:
    done = analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("WatchdogSec", "WatchdgSec"))
    assert "WatchdgSec" in analyze("verify", "--man=no", "--recursive-errors=no", str(unit)).stderr


@pytest.mark.processes
def test_the_unit_is_little_exposed(unit: Path) -> None:
    done = analyze("security", "--offline=true", "--threshold=26", str(unit))
    assert done.returncode == 0, done.stdout + done.stderr


def test_found_the_unit_leaves_what_the_confinement_of_environments_needs() -> None:
    """Namespaces, mounts, and a /proc of which nothing is covered: else the kernel gives no other one."""
    settings = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#"))
    assert set(settings["RestrictNamespaces"].split()) == {"user", "mnt", "pid", "ipc", "net"}
    assert {"@mount", "seccomp", "landlock_restrict_self"} <= set(settings["SystemCallFilter"].split())
    assert not {"ProtectKernelTunables", "ProtectKernelLogs", "ProcSubset"} & settings.keys()


def test_the_watchdog_of_the_unit_is_longer_than_what_a_child_may_be_silent() -> None:
    from perdure.agent.config import Config

    minutes = re.search(r"(?m)^WatchdogSec=(\d+)min$", UNIT.read_text())
    assert minutes is not None
    assert int(minutes[1]) * 60 > Config().supervise.hang_s
