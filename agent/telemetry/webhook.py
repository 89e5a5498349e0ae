"""One HTTP request of a notification: `python -m perdure.agent.telemetry.webhook`, with its address and body as JSON on stdin.

Exit code 0 if it was taken. Otherwise 1, with one line on stdout that says why and never holds the address, which may be a secret. A
redirect is not followed: where it leads was not configured. A proxy is used as the usual variables (`https_proxy`) say.
"""

from __future__ import annotations

import base64
import json
import ssl
import sys
from http.client import HTTPException, HTTPMessage
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from perdure import __version__
from perdure.agent.telemetry.delivery import FINAL

AGAIN = (408, 425, 429)
"""Answers below 500 after which another try may succeed."""


class NotFollowed(HTTPRedirectHandler):
    """Leaves a redirect as the answer that it is."""

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str) -> None:
        return None


def post(address: str, body: bytes, timeout_s: float) -> str | None:
    """Send it. None if it was taken, else why not, beginning with `FINAL` if another try would fail too."""
    parts = urlsplit(address)
    headers = {"Content-Type": "application/json", "User-Agent": f"perdure/{__version__}"}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    try:
        request = Request(urlunsplit(parts._replace(fragment="")), body, headers, method="POST")
        with build_opener(NotFollowed).open(request, timeout=timeout_s):
            return None
    except HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            return f"{FINAL}the answer was {error.code}, a redirect, which is not followed: configure the address that it leads to"
        return f"{'' if error.code >= 500 or error.code in AGAIN else FINAL}the answer was {error.code}"
    except URLError as error:
        return _why(error.reason) if isinstance(error.reason, Exception) else "it cannot be reached"
    except (OSError, HTTPException, ValueError) as error:
        return _why(error)


def _why(error: Exception) -> str:
    """An error in words that do not quote the address."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or type(error).__name__}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def main() -> int:
    given = json.load(sys.stdin)
    why = post(given["address"], given["body"].encode(), given["timeout_s"])
    if why is not None:
        print(why)
    return int(why is not None)


if __name__ == "__main__":
    raise SystemExit(main())
