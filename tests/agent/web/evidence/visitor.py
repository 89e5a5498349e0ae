"""Somebody signed in who looks at pages and sends their forms, without a server: the application is asked as a server would ask it."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes, urlencode

from starlette.types import ASGIApp, Message

from perdure.agent.config_file import load_config
from perdure.agent.web.application import application
from perdure.agent.web.tokens import Sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def words(self) -> str:
        """The text that is read: without tags, with single spaces."""
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", self.text)).split())

    def row(self, head: str) -> list[str]:
        """The cells of the first table row whose head has this text."""
        for row in re.findall(r"<tr>(.*?)</tr>", self.text, re.DOTALL):
            cells = [
                " ".join(unescape(re.sub(r"<[^>]*>", " ", cell)).split())
                for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
            ]
            if cells and cells[0] == head:
                return cells[1:]
        raise AssertionError(f"no row {head!r} in {self.words[:2000]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Signed in."""

    app: ASGIApp
    home: Path
    cookie: str
    csrf: str

    def get(self, target: str) -> Page:
        return asyncio.run(self._ask("GET", target, b"", {}))

    def send(self, path: str, **fields: str | int | float) -> Page:
        """A form, with the mark of this session."""
        body = urlencode({"csrf": self.csrf, **fields}).encode()
        return asyncio.run(self._ask("POST", path, body, {"content-type": "application/x-www-form-urlencoded"}))

    async def _ask(self, method: str, target: str, body: bytes, more: dict[str, str]) -> Page:
        path, _, query = target.partition("?")
        headers = {"host": "127.0.0.1:8377", "cookie": f"perdure_session={self.cookie}", "content-length": str(len(body)), **more}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "raw_path": quote(path, safe="/%").encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
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

        await self.app(scope, receive, send)
        start = told[0]
        text = b"".join(message.get("body", b"") for message in told[1:]).decode()
        return Page(status=start["status"], headers={name.decode(): value.decode() for name, value in start["headers"]}, text=text)


def visitor(home: Path, config: Path | None = None) -> Visitor:
    """Of the pages of a home."""
    app = application(home, load_config(config))
    sessions = app.state.sessions
    assert isinstance(sessions, Sessions)
    cookie = sessions.begin()
    return Visitor(app=app, home=home, cookie=cookie, csrf=sessions.form_mark(cookie))
