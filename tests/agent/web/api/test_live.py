"""What changes is told to all who listen, from one look; streams end with the server, and nobody who is slow costs the others anything."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message
from tests.agent.web.api.asking import Asker, asker
from tests.agent.web.servers import Server, serving

from perdure.agent.studies.study_file import open_study
from perdure.agent.supervision.keepers import GRACE_S
from perdure.agent.web.live import HEARTBEAT_S, KINDS, MOST_CLIENTS, Live
from perdure.memory.processes import pause, record_event, resume
from perdure.memory.store import Store, open_store

PATIENCE_S = 20.0


class Stream:
    """A client of `/api/v1/events`."""

    def __init__(self) -> None:
        self.status = 0
        self.text = ""
        self.leave = asyncio.Event()
        self.ended = asyncio.Event()
        self._first = True

    async def receive(self) -> Message:
        if self._first:
            self._first = False
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.text += message["body"].decode()

    def kinds(self) -> list[list[str]]:
        """Of each message so far."""
        return [json.loads(line.removeprefix("data: "))["kinds"] for line in self.text.splitlines() if line.startswith("data: ")]

    async def until(self, condition: Callable[[Stream], bool]) -> None:
        ends = time.monotonic() + PATIENCE_S
        while not condition(self):
            assert time.monotonic() < ends, self.text
            await asyncio.sleep(0.02)


@asynccontextmanager
async def listening(ask: Asker) -> AsyncIterator[Stream]:
    stream = Stream()
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/v1/events",
        "raw_path": b"/api/v1/events",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {ask.token}".encode())],
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8377),
    }

    async def run() -> None:
        await ask.app(scope, stream.receive, stream.send)
        stream.ended.set()

    task = asyncio.create_task(run())
    await stream.until(lambda stream: bool(stream.kinds()) or stream.ended.is_set())
    try:
        yield stream
    finally:
        stream.leave.set()
        await asyncio.wait_for(task, PATIENCE_S)


def live_of(ask: Asker) -> Live:
    live: Any = ask.app.state.live  # type: ignore[attr-defined]
    assert isinstance(live, Live)
    return live


def in_a_loop(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_the_first_message_names_everything_and_then_what_changes(ask: Asker, home: Path) -> None:
    def change(what: Callable[[Store], object]) -> None:
        with open_store(home) as store:
            what(store)

    async def follow() -> None:
        async with listening(ask) as stream:
            assert stream.status == 200
            assert stream.kinds() == [list(KINDS)]
            await asyncio.sleep(1.2)  # the first look is over
            await asyncio.to_thread(change, lambda store: pause(store, "play", "the fan"))
            await stream.until(lambda stream: stream.kinds()[-1] == ["event", "pause"])
            await asyncio.to_thread(change, lambda store: store.conn.execute("UPDATE version SET pinned = 1 WHERE name = 'v1'"))
            await stream.until(lambda stream: stream.kinds()[-1] == ["version"])
            await asyncio.to_thread(change, lambda store: store.conn.execute("UPDATE job SET state = 'failed' WHERE id = 4"))
            await stream.until(lambda stream: stream.kinds()[-1] == ["job"])
            await asyncio.to_thread(change, lambda store: store.conn.execute("UPDATE episode SET state = 'aborted' WHERE id = 11"))
            await stream.until(lambda stream: stream.kinds()[-1] == ["episode"])

    in_a_loop(follow)


def test_a_cell_of_a_study_is_news(home: Path, tmp_path: Path) -> None:
    keep = tmp_path / "studies"
    (tmp_path / "perdure.toml").write_text(f"model = 'tiny'\nweb.studies = '{keep}'\n")

    async def follow() -> None:
        async with listening(asker(home)) as stream:
            await asyncio.sleep(1.2)
            await asyncio.to_thread(begin)
            await stream.until(lambda stream: stream.kinds()[1:] == [["study"]])

    def begin() -> None:
        with open_study(keep / "grid") as file:
            file.plan(["one cell"])

    in_a_loop(follow)


def test_nothing_is_told_while_nothing_changes(ask: Asker) -> None:
    async def follow() -> None:
        async with listening(ask) as stream:
            await asyncio.sleep(2.0)
            assert len(stream.kinds()) == 1

    in_a_loop(follow)


def test_all_listen_to_one_look_and_nobody_looks_for_nobody(ask: Asker, home: Path) -> None:
    def looking() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "live"]

    async def follow() -> None:
        assert looking() == []
        async with listening(ask) as one, listening(ask) as other:
            assert looking() == ["live"]
            await asyncio.sleep(1.2)
            with open_store(home) as store:
                record_event(store, "verdict", "job 1", "again")
            for stream in (one, other):
                await stream.until(lambda stream: stream.kinds()[1:] == [["event"]])
        assert live_of(ask).listening == 0
        await asyncio.sleep(1.2)
        assert looking() == []

    in_a_loop(follow)


def test_no_more_than_so_many_listen(ask: Asker) -> None:
    async def follow() -> None:
        live = live_of(ask)
        joined = [live.join() for _ in range(MOST_CLIENTS)]
        assert None not in joined
        refused = await ask.asking("GET", "/api/v1/events")
        assert (refused.status, refused.headers["retry-after"], list(json.loads(refused.body))) == (503, "5", ["error"])
        assert joined[0] is not None
        live.leave(joined[0])
        async with listening(ask) as stream:
            assert stream.status == 200
        for one in joined[1:]:
            assert one is not None
            live.leave(one)

    in_a_loop(follow)


def test_what_a_slow_client_has_not_taken_is_told_at_once_and_once(ask: Asker) -> None:
    async def follow() -> None:
        listener = live_of(ask).join()
        assert listener is not None
        messages = listener.messages()
        assert (await anext(messages)).startswith(b"retry: ")
        assert json.loads((await anext(messages)).partition(b"data: ")[2])["kinds"] == list(KINDS)
        for _ in range(10_000):
            listener.tell(frozenset(["episode"]))
            listener.tell(frozenset(["pause"]))
        assert json.loads((await anext(messages)).partition(b"data: ")[2])["kinds"] == ["episode", "pause"]
        live_of(ask).close()
        with pytest.raises(StopAsyncIteration):
            await anext(messages)
        assert live_of(ask).join() is None
        live_of(ask).leave(listener)

    in_a_loop(follow)


def test_a_store_that_comes_later_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_text("model = 'tiny'\n")
    ask = asker(tmp_path / "home")

    async def follow() -> None:
        async with listening(ask) as stream:
            await asyncio.to_thread(_make_a_store, tmp_path / "home")
            await asyncio.sleep(4)
            with open_store(tmp_path / "home") as store:
                resume(store, "play")
                record_event(store, "x", "y", "z")
            await stream.until(lambda stream: len(stream.kinds()) > 1)

    in_a_loop(follow)


def _make_a_store(home: Path) -> None:
    from perdure.memory.store import create_store

    create_store(home).close()


@pytest.fixture
def server(home: Path) -> Any:
    with serving(home) as server:
        yield server


@pytest.mark.processes
def test_open_streams_do_not_hold_up_the_end_of_the_server(server: Server) -> None:
    streams = [opened(server) for _ in range(3)]
    assert server.process is not None
    began = time.monotonic()
    server.process.terminate()
    assert server.process.wait(timeout=30) == 0
    assert time.monotonic() - began < GRACE_S, "a daemon would have killed it"
    for stream in streams:
        stream.close()


@pytest.mark.processes
def test_a_client_that_leaves_gives_its_place_back(server: Server) -> None:
    for _ in range(MOST_CLIENTS + 10):
        opened(server).close()
        time.sleep(0.02)
    assert server.get("/api/v1/status").status == 200
    opened(server).close()
    assert HEARTBEAT_S < 60


def opened(server: Server) -> Any:
    """A connection on which the first message has come."""
    import socket

    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
    head = f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.token}\r\n\r\n"
    connection.sendall(head.encode())
    text = b""
    while b"data: " not in text:
        data = connection.recv(4096)
        assert data, text
        text += data
    assert b"200 OK" in text
    assert b"text/event-stream" in text
    return connection
