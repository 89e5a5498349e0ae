"""Payloads go to servers and commands that work, fail, hang, redirect and print a lot. Putting one in never waits."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from tests.agent.telemetry.listener import code, listening

from perdure.agent.telemetry.delivery import QUEUE_SIZE, TRIES, Channel, Program, webhook
from perdure.agent.telemetry.webhook import post

pytestmark = pytest.mark.processes

PATIENCE_S = 30.0
SECRET = "s3cret"


def wait(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.02)


def channel(program: Program) -> tuple[Channel, list[str]]:
    notes: list[str] = []
    return Channel("test", program, notes.append, first_pause_s=0.01), notes


def command(path: Path, body: str, timeout_s: float = 10.0) -> Program:
    """A Python program as the command of an operator."""
    file = path / "a_command.py"
    file.write_text(body)
    return Program(words=[sys.executable, str(file), str(path / "taken")], timeout_s=timeout_s)


def test_a_payload_is_posted_as_json() -> None:
    with listening(code(204)) as server:
        sent, notes = channel(webhook(f"http://me:{SECRET}%21@127.0.0.1:{server.port}/a?b=c#d", 10))
        sent.put("promote (v1)", b'{"event": "promote"}')
        sent.close(PATIENCE_S)
    assert notes == []
    [asked] = server.asked
    assert (asked.path, json.loads(asked.body)) == ("/a?b=c", {"event": "promote"})
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.headers["Authorization"] == "Basic bWU6czNjcmV0IQ=="


def test_a_server_that_fails_is_tried_again_and_then_given_up() -> None:
    with listening(code(503), code(429), code(200)) as server:
        sent, notes = channel(webhook(server.address, 10))
        sent.put("promote (v1)", b"{}")
        wait(lambda: len(server.asked) == 3)
        sent.close(PATIENCE_S)
    assert notes == []
    with listening(code(500)) as server:
        sent, notes = channel(webhook(f"{server.address}/{SECRET}", 10))
        sent.put("promote (v1)", b"{}")
        wait(lambda: notes)
        sent.close(PATIENCE_S)
    assert len(server.asked) == TRIES
    assert notes == [f"promote (v1) was not sent after {TRIES} tries: the answer was 500"]


def test_a_refusal_is_not_tried_again() -> None:
    with listening(code(403)) as server:
        sent, notes = channel(webhook(f"{server.address}/{SECRET}", 10))
        sent.put("promote (v1)", b"{}")
        sent.close(PATIENCE_S)
    assert len(server.asked) == 1
    assert notes == ["promote (v1) was not sent after 1 try: the answer was 403"]


@pytest.mark.parametrize("number", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(number: int) -> None:
    with listening(code(200)) as other, listening(code(number, Location=f"{other.address}/evil")) as server:
        why = post(server.address, b"{}", 10)
    assert why is not None
    assert "is not followed" in why
    assert (len(server.asked), other.asked) == (1, [])


def test_a_server_that_hangs_ends_in_time_and_its_address_is_not_told() -> None:
    def drip(request: BaseHTTPRequestHandler) -> None:
        """A byte of a header again and again: no single read takes long."""
        request.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
        while not server.ended.wait(0.1):
            try:
                request.wfile.write(b"x")
                request.wfile.flush()
            except OSError:
                return

    with listening(drip) as server:
        sent, notes = channel(webhook(f"{server.address}/{SECRET}", 0.5))
        began_s = time.monotonic()
        sent.put("promote (v1)", b"{}")
        put_s = time.monotonic() - began_s
        wait(lambda: len(server.asked) == 1)
        sent.close(PATIENCE_S)
    assert put_s < 0.5
    assert len(notes) == 1
    assert "it took more than 0.5 s" in notes[0]
    assert SECRET not in notes[0]


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/s3cret", "http://s3cret.invalid/s3cret", "https://127.0.0.1:{port}/s3cret"])
def test_why_an_address_cannot_be_reached_is_told_without_it(address: str) -> None:
    with listening(code(200)) as server:
        why = post(address.replace("{port}", str(server.port)), b"{}", 5)
    assert why
    assert SECRET not in why
    assert "127.0.0.1" not in why


def test_a_command_gets_the_payload_on_stdin(tmp_path: Path) -> None:
    body = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read()); print('x' * 10_000_000)"
    sent, notes = channel(command(tmp_path, body))
    sent.put("promote (v1)", b'{"event": "promote"}')
    sent.close(PATIENCE_S)
    assert notes == []
    assert (tmp_path / "taken").read_bytes() == b'{"event": "promote"}'


def test_a_command_that_fails_is_tried_again_and_one_that_is_missing_is_not(tmp_path: Path) -> None:
    sent, notes = channel(command(tmp_path, "import sys; open(sys.argv[1], 'a').write('x'); sys.exit(7)"))
    sent.put("promote (v1)", b"x" * 1_000_000)  # which it does not read
    wait(lambda: notes)
    sent.close(PATIENCE_S)
    assert (tmp_path / "taken").read_text() == "x" * TRIES
    assert notes == [f"promote (v1) was not sent after {TRIES} tries: {sys.executable} ended with exit code 7"]
    sent, notes = channel(Program(words=["no-such-program"], timeout_s=1))
    sent.put("promote (v1)", b"{}")
    sent.close(PATIENCE_S)
    assert notes == ["promote (v1) was not sent after 1 try: no-such-program cannot be run: No such file or directory"]


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    body = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}')\n"
        "time.sleep(600)\n"
    )
    sent, notes = channel(command(tmp_path, body, timeout_s=3.0))
    sent.put("promote (v1)", b"{}")
    wait(lambda: (tmp_path / "taken").exists() and len((tmp_path / "taken").read_text().split()) == 2)
    sent.close(PATIENCE_S)
    assert len(notes) == 1
    assert "it took more than 3 s" in notes[0]
    for pid in (tmp_path / "taken").read_text().split():
        wait(lambda pid=pid: _gone(int(pid)))


def _gone(pid: int) -> bool:
    """Whether a process has ended; it may still wait to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_queue_is_bounded_and_the_end_does_not_wait_for_long(tmp_path: Path) -> None:
    sent, notes = channel(command(tmp_path, "import time; time.sleep(600)", timeout_s=60.0))
    began_s = time.monotonic()
    for _ in range(QUEUE_SIZE + 51):
        sent.put("promote (v1)", b"{}")
    assert time.monotonic() - began_s < 30
    began_s = time.monotonic()
    sent.close(0.5)
    assert time.monotonic() - began_s < 30
    assert int(notes[-1].split()[0]) in (QUEUE_SIZE, QUEUE_SIZE + 1)
    assert "not sent before the end of the daemon" in notes[-1]
    said = len(notes)
    time.sleep(0.5)
    assert len(notes) == said, "nothing more is tried"


def test_what_was_dropped_is_noted(tmp_path: Path) -> None:
    go = tmp_path / "go"
    sent, notes = channel(command(tmp_path, f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)"))
    for _ in range(QUEUE_SIZE + 51):
        sent.put("promote (v1)", b"{}")
    go.touch()
    wait(lambda: notes)
    sent.close(0.1)
    assert "dropped: 100 were waiting already" in notes[0]
    assert int(notes[0].split()[0]) in (50, 51)
