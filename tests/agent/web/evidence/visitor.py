"""Somebody signed in who looks at pages and sends their forms, without a server: the application is asked as a server would ask it."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

from starlette.types import ASGIApp
from tests.agent.web.in_process import ask_app

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
        sent = await ask_app(self.app, method, target, {"cookie": f"perdure_session={self.cookie}", **more}, body)
        return Page(status=sent.status, headers=sent.headers, text=sent.body.decode())


def visitor(home: Path, config: Path | None = None) -> Visitor:
    """Of the pages of a home."""
    app = application(home, load_config(config))
    sessions = app.state.sessions
    assert isinstance(sessions, Sessions)
    cookie = sessions.begin()
    return Visitor(app=app, home=home, cookie=cookie, csrf=sessions.form_mark(cookie))
