"""Clients of the page and the API: many that ask the same thing, and a browser that has the first page open.

Each connection is kept and asks one thing at a time. The browser is a process of its own, `python -m
perdure.agent.bench.pages.page_clients`: it follows the events and asks for the parts that they name as often as the page's own script does
(`agent/web/static/perdure.js`). It draws nothing, since a browser is seldom on the machine of the actor. Left out: what is measured with
them (`page_speed.py`).
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from perdure.memory.errors import RuntimeFailure

CALM_S = 1.5
"""Between two renewals of one part."""
ANSWER_S = 60.0
LIVE = re.compile(r'data-live="([^"]*)" data-hx-get="([^"]*)"')
NAMED = re.compile(r'(?:href|src)="(/static/[^"]*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """An answer, and how long it took."""

    seconds: float
    body: bytes


class PageClient:
    """A connection that is kept."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> Got:
        """Ask, and take the whole answer. Raises `RuntimeFailure` if it is not 200."""
        began = time.perf_counter()
        for _ in range(2):
            fresh = self._streams is None
            reader, _ = await self.ask(path)
            try:
                length = int((await self.head(reader, path))["content-length"])
                body = await asyncio.wait_for(reader.readexactly(length), ANSWER_S)
            except (asyncio.IncompleteReadError, ConnectionError):
                await self.close()
                if fresh:
                    raise
                continue  # the server has closed a connection that was idle
            return Got(seconds=time.perf_counter() - began, body=body)
        raise RuntimeFailure(f"the page closes every connection that asks for {path}")

    async def ask(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request; the answer is still to be read."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**22)
        self._streams[1].write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._token}\r\n\r\n".encode())
        return self._streams

    async def head(self, reader: asyncio.StreamReader, path: str) -> Mapping[str, str]:
        """The headers of an answer."""
        text = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ANSWER_S)).decode("latin-1")
        first, *lines = text.rstrip().split("\r\n")
        if first.split()[1] != "200":
            raise RuntimeFailure(f"the page answers {first!r} to {path}; its log is logs/web.log in the home")
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            with suppress(OSError):
                await self._streams[1].wait_closed()
            self._streams = None


def fetch(port: int, token: str, path: str) -> Got:
    """One question on a connection of its own."""

    async def once() -> Got:
        client = PageClient(port, token)
        try:
            return await client.get(path)
        finally:
            await client.close()

    return asyncio.run(once())


def ask_at_once(port: int, token: str, path: str, *, clients: int, for_s: float, every_s: float) -> list[float]:
    """Seconds that each answer took, while `clients` ask: every `every_s` seconds, or again and again if it is 0."""
    found: list[float] = []

    async def keep_asking(n: int) -> None:
        client, ends_s = PageClient(port, token), time.monotonic() + for_s
        await asyncio.sleep(every_s * n / clients)
        while time.monotonic() < ends_s:
            got = await client.get(path)
            found.append(got.seconds)
            await asyncio.sleep(max(every_s - got.seconds, 0.0) if every_s else 0.0)
        await client.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(keep_asking(n) for n in range(clients)))

    asyncio.run(all_of_them())
    return found


async def keep_page_open(port: int, token: str) -> None:
    """The first page in a browser, until the server goes."""
    news, parts = PageClient(port, token), PageClient(port, token)
    page = (await parts.get("/")).body.decode()
    kinds_of = {address: set(kinds.split()) for kinds, address in LIVE.findall(page)}
    if not kinds_of:
        raise RuntimeFailure("the first page has no live part")
    reader, _ = await news.ask("/api/v1/events")
    await news.head(reader, "/api/v1/events")
    print("open", flush=True)
    due: set[str] = set()
    listening = asyncio.create_task(_listen(reader, kinds_of, due))
    while not listening.done():
        await asyncio.sleep(CALM_S)
        asked = sorted(due)
        due.clear()
        for address in asked:
            await parts.get(address)


async def _listen(reader: asyncio.StreamReader, kinds_of: Mapping[str, set[str]], due: set[str]) -> None:
    """Note the parts of which there is news. The first message is none."""
    first = True
    while line := await reader.readline():
        if not line.startswith(b"data: "):
            continue
        kinds = set(json.loads(line[6:])["kinds"])
        if not first:
            due |= {address for address, shown in kinds_of.items() if shown & kinds}
        first = False


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, ConnectionError, asyncio.IncompleteReadError):
        asyncio.run(keep_page_open(int(sys.argv[1]), sys.stdin.readline().strip()))
