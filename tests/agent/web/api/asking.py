"""Requests to an application without a server: what a client sends goes into it as a server would give it, and its answer comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlencode

from starlette.types import ASGIApp, Message

from perdure.agent.config_file import load_config
from perdure.agent.web.application import application
from perdure.agent.web.stores import BUSY_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Asks an application, by default with its token."""

    app: ASGIApp
    token: str

    def get(self, path: str, headers: Mapping[str, str] | None = None, **query: Any) -> Reply:
        """`query` has the parameters; None leaves one out."""
        given = {name: value for name, value in query.items() if value is not None}
        return self.ask("GET", f"{path}?{urlencode(given)}" if given else path, headers=headers)

    def post(self, path: str, body: Any, key: str | None = "key-1", headers: Mapping[str, str] | None = None) -> Reply:
        """A document as JSON; bytes as they are."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        keyed = {} if key is None else {"idempotency-key": key}
        return self.ask("POST", path, {"content-type": "application/json", **keyed, **(headers or {})}, raw)

    def ask(self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Reply:
        """One request in an event loop of its own. A header of '' is not sent."""
        return asyncio.run(self.asking(method, target, headers, body))

    async def asking(self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Reply:
        path, _, query = target.partition("?")
        sent = {"host": "127.0.0.1:8377", "authorization": f"Bearer {self.token}", **(headers or {})}
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
            "headers": [
                (name.lower().encode(), value.encode("utf-8"))
                for name, value in {**sent, "content-length": str(len(body))}.items()
                if value
            ],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8377),
        }
        told: list[Message] = []
        ended = asyncio.Event()
        parts = [body]

        async def receive() -> Message:
            if parts:
                return {"type": "http.request", "body": parts.pop(), "more_body": False}
            await ended.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            told.append(message)

        await self.app(scope, receive, send)
        ended.set()
        start = told[0]
        return Reply(
            status=start["status"],
            headers={name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]},
            body=b"".join(message.get("body", b"") for message in told[1:]),
        )


def asker(home: Path, *, busy_ms: int = BUSY_MS) -> Asker:
    """Asks an application over a home, whose configuration is beside it."""
    app = application(home, load_config(home.parent / "perdure.toml"))
    app.state.home = replace(app.state.home, busy_ms=busy_ms)
    return Asker(app=app, token=(home / "run" / "token").read_text().strip())
