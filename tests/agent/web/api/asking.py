"""Requests to an application without a server: what a client sends goes into it as a server would give it, and its answer comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.types import ASGIApp
from tests.agent.web.in_process import ask_app

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
        sent = await ask_app(self.app, method, target, {"authorization": f"Bearer {self.token}", **(headers or {})}, body)
        return Reply(status=sent.status, headers=sent.headers, body=sent.body)


def asker(home: Path, *, busy_ms: int = BUSY_MS) -> Asker:
    """Asks an application over a home, whose configuration is beside it."""
    app = application(home, load_config(home.parent / "perdure.toml"))
    app.state.home = replace(app.state.home, busy_ms=busy_ms)
    return Asker(app=app, token=(home / "run" / "token").read_text().strip())
