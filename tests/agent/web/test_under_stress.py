"""Real servers when much goes wrong at once: a full disk while somebody presses a button, two who press at once, a thousand who listen."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tests.agent.web.servers import Answer, Server, serving, wait_for

from perdure.agent.web.live import MOST_CLIENTS
from perdure.memory.changes import list_changes
from perdure.memory.store import open_store
from perdure.memory.versions import promote
from perdure.memory.versions import serving as served_version

pytestmark = pytest.mark.processes

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
DISK_BYTES = 6 * 2**20
FULL = "is full: nothing was written|check the disk and its free space"
"""SQLite says the one or the other, as it could not write the log or not begin one."""


def send(server: Server, path: str, key: str, **asked: object) -> Answer:
    """A change, asked of the API."""
    headers = {**server.bearer, "Content-Type": "application/json", "Idempotency-Key": key}
    return server.ask("POST", f"/api/v1{path}", headers, json.dumps(asked))


def press(server: Server, page: str, form: str, **fields: str) -> Answer:
    """The form of a page, sent as a browser sends it, with all that stands in it already."""
    return shown(server, page, form, **fields)()


def shown(server: Server, page: str, form: str, **fields: str) -> Callable[[], Answer]:
    """What sends a form that a browser shows."""
    browser = server.sign_in()
    text = server.get(page, browser).text
    found = re.search(rf'<form[^>]*action="{form}".*?</form>', text, re.DOTALL)
    assert found is not None, text
    given = dict(re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', found[0]))
    origin = {"Origin": f"http://127.0.0.1:{server.port}"}
    return lambda: server.ask("POST", form, browser | FORM | origin, urlencode({**given, **fields}))


# --- a full disk ---


def on_a_disk_of_its_own(home: Path) -> tuple[str, ...]:
    """Runs a program that sees a small disk at the home, with what is in the home; no other program sees it."""
    disk, size = home.parent / "disk", DISK_BYTES
    disk.mkdir()
    steps = (
        f"mount -t tmpfs -o size={size} none {disk}",
        f"cp -a {home}/. {disk}/",
        f"mount --bind {disk} {home}",
        'exec "$@"',
    )
    return ("unshare", "-m", "sh", "-c", " && ".join(steps), "sh")


@pytest.mark.parametrize("python", [(), ("-O",)], ids=["python", "python-O"])
def test_a_button_on_a_full_disk_does_nothing_and_says_so(home: Path, python: tuple[str, ...]) -> None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount")
    token = home / "run" / "token"
    token.touch(0o600)
    token.write_text("0123456789abcdef")
    with serving(home, python=python, prefix=on_a_disk_of_its_own(home)) as server:
        assert server.process is not None
        seen = Path(f"/proc/{server.process.pid}/root{home}")
        assert seen.stat().st_dev != home.stat().st_dev
        server.home = seen
        assert send(server, "/pause", "before", what="learning", reason="there is room").status == 200
        filler = seen / "filler"
        fill(filler)

        refused = send(server, "/pause", "key", what="play", reason="the disk is full")
        assert refused.status == 503
        assert re.search(FULL, refused.json()["error"])
        pressed = press(server, "/", "/act/pause", what="play", reason="the disk is full")
        assert (pressed.status, re.search(FULL, pressed.text) is not None) == (503, True)
        assert [one["what"] for one in server.get("/api/v1/status").json()["pauses"]] == ["learning"], "reading goes on"
        assert server.get("/", server.sign_in()).status == 200

        filler.unlink()
        assert send(server, "/pause", "key", what="play", reason="the disk is full").status == 200
        assert send(server, "/pause", "key", what="play", reason="the disk is full").status == 200
        wait_for("both pauses", lambda: [one["what"] for one in server.get("/api/v1/status").json()["pauses"]] == ["learning", "play"])
        assert [change["key"] for change in server.get("/api/v1/changes").json()] == ["key", "before"]


def fill(file: Path) -> None:
    """Until the last byte."""
    with file.open("wb", buffering=0) as out:
        for size in (2**16, 1):
            try:
                while True:
                    out.write(bytes(size))
            except OSError:
                continue


# --- two who press at once ---


def both(*asks: object) -> list[Answer]:
    """The answers to questions that are asked at the same moment."""
    gate, answers = threading.Barrier(len(asks)), []

    def ask(question: object) -> None:
        gate.wait()
        answers.append(question())  # type: ignore[operator]

    threads = [threading.Thread(target=ask, args=(question,)) for question in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.fixture
def two(home: Path) -> Iterator[tuple[Server, Server]]:
    """Two servers of a home in which v2 serves after v1 after v0."""
    with open_store(home) as store:
        promote(store, "v2", "for the test")
    with serving(home) as one, serving(home, python=["-O"]) as other:
        yield one, other


def test_of_two_who_roll_back_at_once_one_does(home: Path, two: tuple[Server, Server]) -> None:
    one, other = two
    answers = both(
        *(
            lambda server=server, n=n: send(server, "/rollback", f"person-{n}", reason=f"{n} saw it", expected="v2", by=f"person {n}")
            for n, server in enumerate((one, other, one, other))
        )
    )
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409]
    assert {answer.json()["error"] for answer in answers if answer.status == 409} == {
        "v1 serves now, no longer v2: look at what has changed, and ask again"
    }
    with open_store(home) as store:
        assert served_version(store).name == "v1"
        (change,) = list_changes(store)
    assert (change.what, change.via) == ("version rollback", "api")
    assert change.reason == f"{change.who.removeprefix('person ')} saw it"


def test_of_two_who_press_the_same_button_one_does(home: Path, two: tuple[Server, Server]) -> None:
    answers = both(*[shown(server, "/versions/v2", "/act/versions/rollback", reason="it forgot") for server in two])
    assert sorted(answer.status for answer in answers) == [303, 409]
    with open_store(home) as store:
        assert served_version(store).name == "v1"
        assert [(change.what, change.via, change.reason) for change in list_changes(store)] == [("version rollback", "page", "it forgot")]


def test_who_sends_the_same_again_rolls_back_once(home: Path, two: tuple[Server, Server]) -> None:
    answers = both(*(lambda server=server: send(server, "/rollback", "the-key", reason="once", expected="v2") for server in (*two, *two)))
    assert [answer.status for answer in answers] == [200] * 4
    assert len({answer.body for answer in answers}) == 1
    with open_store(home) as store:
        assert served_version(store).name == "v1"
        assert len(list_changes(store)) == 1


# --- a thousand who listen ---


@pytest.mark.parametrize("python", [(), ("-O",)], ids=["python", "python-O"])
def test_a_thousand_who_listen_leave_room_for_who_asks(home: Path, python: tuple[str, ...]) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 4096:
        pytest.skip("this machine gives a process few connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 4096), before[1]))
    try:
        with serving(home, python=python) as server, ExitStack() as stack:
            head = f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode()
            listening: list[socket.socket] = []
            for _ in range(1000):
                connection = stack.enter_context(server.raw())
                connection.sendall(head)
                listening.append(connection)
            wait_for("those whom it refused to leave", server.answers)
            began = time.monotonic()
            assert server.get("/livez", {}).status == 200
            assert server.get("/api/v1/status").status == 200
            assert time.monotonic() - began < 25
            first = [connection.recv(65536)[:12] for connection in listening]
            assert (first.count(b"HTTP/1.1 200"), first.count(b"HTTP/1.1 503")) == (MOST_CLIENTS, 1000 - MOST_CLIENTS)
            for connection in listening:
                connection.close()
            wait_for("a place", lambda: listens(server, head))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def listens(server: Server, head: bytes) -> bool:
    with server.raw() as connection:
        connection.sendall(head)
        return connection.recv(12) == b"HTTP/1.1 200"
