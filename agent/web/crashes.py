"""What becomes of mistakes in our own code: the client gets one line that tells nothing of it, and `logs/errors.log` gets the traceback.

The log is bounded, and no text in it can move or hide other text. Left out: errors that a person can act on (`application.py`).
"""

from __future__ import annotations

import secrets
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.agent.show.terminal import visible
from perdure.agent.web.access import API, HEADERS

FILE = "errors.log"
MOST_BYTES = 2**20
"""A longer log is renamed to `errors.log.1`."""


class Crashes:
    """ASGI middleware, around all others. `logs` need not be there: then the traceback goes to stderr."""

    def __init__(self, app: ASGIApp, logs: Path) -> None:
        self._app = app
        self._logs = logs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:  # noqa: BLE001 - it is written down, and answered
            number = secrets.token_hex(4)
            _write_down(self._logs, f"{number} {scope.get('method', '')} {scope.get('path', '')}", error)
            if not started:
                await _answer(scope, number)(scope, receive, send)


def _answer(scope: Scope, number: str) -> Response:
    line = f"something went wrong here; logs/{FILE} of the home tells what, under {number}"
    if scope.get("path", "").startswith(API):
        answer: Response = JSONResponse({"error": line}, status_code=500)
    else:
        answer = Response(line + "\n", status_code=500, media_type="text/plain; charset=utf-8")
    MutableHeaders(raw=answer.raw_headers).update(HEADERS)
    return answer


def _write_down(logs: Path, what: str, error: Exception) -> None:
    lines = [f"{time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())} {what[:500]}"]
    lines += "".join(traceback.format_exception(error)).splitlines()
    text = "".join(f"{visible(line)}\n" for line in lines)[:MOST_BYTES]
    file = logs / FILE
    with suppress(OSError):
        if file.exists() and file.stat().st_size > MOST_BYTES:
            file.replace(file.with_suffix(".log.1"))
        with file.open("a", encoding="utf-8") as log:
            log.write(text)
        return
    with suppress(OSError):
        print(text, file=sys.stderr)
