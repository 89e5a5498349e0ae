"""What changes in the home, told as it changes: server-sent events, from one look every half second for all who listen.

A message names kinds of things (`KINDS`), never what they are now: a page asks for what it shows. Kinds that change before a client has
taken its last message are told with the next one, so that nobody who reads slowly costs memory. The first message names all kinds. The look
is a few counts and highest numbers, and only if the database was written since the last one, and when the files of studies were written;
without clients nobody looks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from perdure.agent.studies.study_file import FILE_NAME
from perdure.agent.web.stores import ServedHome
from perdure.memory.errors import PerdureError
from perdure.memory.json_value import to_json
from perdure.memory.store import Store

KINDS = ("episode", "job", "version", "event", "pause", "study")
MOST_CLIENTS = 64
LOOK_S = 0.5
HEARTBEAT_S = 15.0
"""A comment is sent after this time without a message, so that neither side takes the other for dead."""
SEND_S = 10.0
"""A client that takes no bytes for this long is dropped."""
LAST_S = 900.0
"""A stream ends after this time, and a browser opens it again by itself: so the places of dead clients come free."""
LOOKS = 120
"""After this many the store is opened anew: its file may have been replaced."""
AGAIN_MS = 2000
"""After which a browser opens a stream again that ended."""

LOOK = {
    "episode": """
        SELECT (SELECT max(id) FROM episode), (SELECT count(*) FROM episode WHERE state = 'running'),
               (SELECT max(rowid) FROM turn), (SELECT max(id) FROM task), (SELECT max(id) FROM shard)
    """,
    "job": """
        SELECT (SELECT group_concat(state || n) FROM (SELECT state, count(*) AS n FROM job GROUP BY state)),
               (SELECT max(id) FROM job), (SELECT max(id) FROM gate), (SELECT max(finished_at) FROM gate),
               (SELECT count(*) FROM step WHERE job = (SELECT max(id) FROM job WHERE state IN ('running', 'gating'))),
               (SELECT count(*) FROM pair WHERE gate = (SELECT max(id) FROM gate))
    """,
    "version": """
        SELECT (SELECT max(id) FROM move),
               (SELECT group_concat(state || n || pins) FROM (
                   SELECT state, count(*) AS n, sum(pinned) AS pins FROM version GROUP BY state)),
               (SELECT group_concat(name || coalesce(anchor, '') || coalesce(retired_at, '')) FROM environment)
    """,
    "event": "SELECT (SELECT max(id) FROM event), (SELECT max(id) FROM change)",
    "pause": "SELECT group_concat(what || paused_at || reason) FROM pause",
}
"""For each kind of the store what is looked at: each through an index, or over a small table."""


class Live:
    """Who listens to one home. Belongs to one event loop; a thread of its own looks."""

    def __init__(self, home: ServedHome, most: int = MOST_CLIENTS) -> None:
        self._home = home
        self._most = most
        self._clients: set[Listener] = set()
        self._watching: threading.Event | None = None
        """Set when the thread that looks is to end; None if there is none."""
        self._closed = False

    def join(self) -> Listener | None:
        """A new client; None if there are as many as there may be, or if the server ends."""
        if self._closed or len(self._clients) >= self._most:
            return None
        client = Listener()
        self._clients.add(client)
        if self._watching is None:
            self._watching = threading.Event()
            arguments = (self._home, asyncio.get_running_loop(), self._watching, self._tell)
            threading.Thread(target=_watch, args=arguments, name="live", daemon=True).start()
        return client

    def leave(self, client: Listener) -> None:
        self._clients.discard(client)
        if not self._clients and self._watching is not None:
            self._watching.set()
            self._watching = None

    def close(self) -> None:
        """End all streams, at once, and take no more clients."""
        self._closed = True
        for client in self._clients:
            client.close()

    @property
    def listening(self) -> int:
        """How many clients there are."""
        return len(self._clients)

    def _tell(self, watching: threading.Event, kinds: frozenset[str]) -> None:
        if watching is self._watching:
            for client in self._clients:
                client.tell(kinds)


class Listener:
    """One client, and what it has not been told yet."""

    def __init__(self) -> None:
        self._news = set(KINDS)
        self._changed = asyncio.Event()
        self._changed.set()
        self._closed = False

    def tell(self, kinds: frozenset[str]) -> None:
        self._news |= kinds
        self._changed.set()

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    async def messages(self) -> AsyncIterator[bytes]:
        """Until the server ends, or the stream has lasted long enough."""
        yield f"retry: {AGAIN_MS}\n\n".encode()
        ends_s = time.monotonic() + LAST_S
        while not self._closed and time.monotonic() < ends_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), HEARTBEAT_S)
            if self._closed:
                return
            self._changed.clear()
            kinds, self._news = [kind for kind in KINDS if kind in self._news], set()
            yield f"event: change\ndata: {to_json({'kinds': kinds})}\n\n".encode() if kinds else b": still here\n\n"


class EventStream(Response):
    """The messages of a client, as they come; ends when the client goes, or takes no bytes."""

    media_type = "text/event-stream"

    def __init__(self, live: Live, client: Listener) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._live = live
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_gone(receive, self._client))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for message in self._client.messages():
                await asyncio.wait_for(send({"type": "http.response.body", "body": message, "more_body": True}), SEND_S)
            await asyncio.wait_for(send({"type": "http.response.body", "body": b"", "more_body": False}), SEND_S)
        except (TimeoutError, OSError):
            return
        finally:
            gone.cancel()
            self._live.leave(self._client)


async def _gone(receive: Receive, client: Listener) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    client.close()


def _watch(
    home: ServedHome, loop: asyncio.AbstractEventLoop, ended: threading.Event, tell: Callable[[threading.Event, frozenset[str]], None]
) -> None:
    """Look until `ended`, and tell what has changed. While the store cannot be read it is tried again."""
    last: _Seen | None = None
    while not ended.is_set():
        try:
            with home.reading() as store:
                last = None if last is None else replace(last, written=-1)  # each connection counts writes for itself
                for _ in range(LOOKS):
                    if ended.wait(LOOK_S):
                        return
                    seen = _look(store, _studies_written(home.studies), last)
                    if last is not None and (kinds := frozenset(kind for kind in KINDS if seen.marks[kind] != last.marks[kind])):
                        loop.call_soon_threadsafe(tell, ended, kinds)
                    last = seen
        except PerdureError:
            ended.wait(AGAIN_MS / 1000)
        except OSError:  # a study was taken away in this moment, or is not for this user
            ended.wait(AGAIN_MS / 1000)
        except RuntimeError:  # the loop is closed: nobody listens any more
            return


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What a look saw."""

    written: int
    """SQLite's `data_version`: another one means that another connection has written."""
    marks: Mapping[str, tuple[object, ...]]


def _look(store: Store, studies: tuple[object, ...], last: _Seen | None) -> _Seen:
    written = int(store.rows("PRAGMA data_version")[0][0])
    if last is not None and written == last.written:
        return replace(last, marks={**last.marks, "study": studies})
    return _Seen(written=written, marks={"study": studies, **{kind: tuple(store.rows(sql)[0]) for kind, sql in LOOK.items()}})


def _studies_written(keep: Path) -> tuple[object, ...]:
    """When the file of each study, or its log, was last written."""
    return tuple(sorted((str(file), file.stat().st_mtime_ns) for file in keep.glob(f"*/{FILE_NAME}*")))
