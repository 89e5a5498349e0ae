"""An application asked without a server: a request goes in as a server would give it, and what the application sends comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import SimpleCookie
from urllib.parse import quote, unquote_to_bytes

from starlette.types import ASGIApp, Message

HOST = "127.0.0.1:8377"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What an application sent."""

    status: int
    pairs: tuple[tuple[str, str], ...]
    """Its headers, of which cookies come several at once."""
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        """The last of each name."""
        return dict(self.pairs)

    @property
    def cookies(self) -> SimpleCookie:
        found = SimpleCookie()
        for name, value in self.pairs:
            if name == "set-cookie":
                found.load(value)
        return found


async def ask_app(app: ASGIApp, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Sent:
    """One request, whose body comes in one piece; the client stays until it has its answer. A header of '' is not sent."""
    path, _, query = target.partition("?")
    given = {"host": HOST, "content-length": str(len(body)), **headers}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": quote(path, safe="/%").encode(),
        "query_string": query.encode("utf-8", "surrogateescape"),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items() if value],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8377),
    }
    told: list[Message] = []
    parts = [body]
    over = asyncio.Event()

    async def receive() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        told.append(message)

    await app(scope, receive, send)
    over.set()
    return Sent(
        status=told[0]["status"],
        pairs=tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in told[0]["headers"]),
        body=b"".join(message.get("body", b"") for message in told[1:]),
    )
