"""Slow clients and many clients: each ends in time, and others are answered meanwhile."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.agent.web.servers import Server, read_all, serving, wait_for

from perdure.agent.web.patience import CONNECTIONS, HEAD_S, PatientProtocol

HEAD = b"POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n"
LARGE = 64 * 2**20


class Impatient(PatientProtocol):
    head_s = 1.0
    body_s = 1.2
    take_s = 1.5


async def echoes(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body, and at /large with much; at /early before it has read the body."""
    body, more = b"", scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    if scope["path"] == "/large":
        body = bytes(LARGE)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    for start in range(0, len(body), 2**16):
        await send({"type": "http.response.body", "body": body[start : start + 2**16], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def impatient() -> Iterator[Server]:
    listener = socket.create_server(("127.0.0.1", 0))
    settings = uvicorn.Config(
        echoes, http=Impatient, ws="none", lifespan="off", loop="asyncio", timeout_keep_alive=2, access_log=False, log_config=None
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield Server(home=Path(), port=listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def lasts(connection: socket.socket, *, every: tuple[bytes, ...] = ()) -> float:
    """Seconds until the other side has closed, while `every` is sent piece by piece."""
    began = time.monotonic()
    connection.settimeout(0.05)
    for piece in every:
        with suppress(OSError):
            connection.sendall(piece)
        try:
            if not connection.recv(65536):
                return time.monotonic() - began
        except TimeoutError:
            continue
        except ConnectionError:
            return time.monotonic() - began
    connection.settimeout(10)
    read_all(connection)
    return time.monotonic() - began


def test_who_says_nothing_is_not_waited_for(impatient: Server) -> None:
    with impatient.raw() as connection:
        assert 0.9 < lasts(connection) < 8


def test_a_head_that_comes_byte_by_byte_has_one_deadline(impatient: Server) -> None:
    with impatient.raw() as connection:
        assert 0.9 < lasts(connection, every=(b"GET", b" ", b"/", *[b"x"] * 200)) < 8


def test_the_second_request_of_a_connection_has_a_deadline_too(impatient: Server) -> None:
    with impatient.raw() as connection:
        connection.sendall(HEAD + b"0123456789")
        wait_for("the first answer", lambda: b"0123456789" in connection.recv(65536))
        assert 0.9 < lasts(connection, every=(b"GET", b" ", b"/", *[b"x"] * 200)) < 8


def test_a_body_that_comes_byte_by_byte_has_one_deadline(impatient: Server) -> None:
    with impatient.raw() as connection:
        connection.sendall(HEAD)
        assert 1.1 < lasts(connection, every=(b"0",) * 9) < 8
    with impatient.raw() as connection:
        connection.sendall(HEAD.replace(b"echo", b"early"))
        assert 1.1 < lasts(connection, every=(b"0",) * 9) < 8, "even if it was answered already"


def test_who_does_not_take_the_answer_is_not_waited_for(impatient: Server) -> None:
    with impatient.raw() as connection:
        connection.sendall(HEAD.replace(b"echo", b"large") + b"0123456789")
        time.sleep(3)
        assert len(read_all(connection)) < LARGE


def test_a_slow_but_steady_client_is_served(impatient: Server) -> None:
    with impatient.raw() as connection:
        for piece in (HEAD[:20], HEAD[20:], b"01234", b"56789"):
            time.sleep(0.2)
            connection.sendall(piece)
        wait_for("the answer", lambda: b"0123456789" in connection.recv(65536))
    with impatient.raw() as connection:
        connection.sendall(HEAD.replace(b"echo", b"large") + b"0123456789")
        taken = 0
        while taken < LARGE:
            taken += len(connection.recv(2**20))
            time.sleep(0.01)


@pytest.mark.processes
def test_many_connections_are_refused_and_leave_room_again(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as server, ExitStack() as stack:
        held = [stack.enter_context(server.raw()) for _ in range(CONNECTIONS)]
        began = time.monotonic()
        with server.raw() as one_more:
            assert read_all(one_more).startswith(b"HTTP/1.1 503 ")
        assert time.monotonic() - began < HEAD_S / 2
        held[0].close()
        wait_for("room for one", server.answers, patience_s=5)
        for connection in held[1:]:
            assert read_all(connection) == b"", "a connection without a request is closed"
        assert time.monotonic() - began < 2 * HEAD_S
        assert server.answers()
