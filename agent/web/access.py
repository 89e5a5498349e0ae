"""Who may ask: looked at before any route sees a request.

In this order: the Host, against pages that point a name of theirs at this machine (DNS rebinding); the Origin of whatever could change
something; the token, as `Authorization: Bearer`, or for reading and for pages the cookie of a session; and the size of the body. The
token in an address counts for nothing: addresses end up in logs. Left out: the token itself (`tokens.py`), and the marks of forms
(`pages/forms.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.agent.web.tokens import Sessions

COOKIE = "perdure_session"
OPEN = ("/livez", "/readyz", "/metrics")
"""For probes of an orchestrator and for Prometheus: neither token nor Host are asked for."""
WITHOUT_TOKEN = ("/login", "/act/login")
STATIC = "/static/"
API = "/api/"
LONGEST_BODY_BYTES = 2**16
SAFE = ("GET", "HEAD")
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with none, browsers call the origin of our own forms null
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer. Nothing is fetched from elsewhere, and no script or style stands in a page."""


class Access:
    """ASGI middleware. `hosts` are the names under which this server may be asked for, without ports."""

    def __init__(self, app: ASGIApp, sessions: Sessions, hosts: Sequence[str]) -> None:
        self._app = app
        self._sessions = sessions
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    given.setdefault(name, value)
                if not path.startswith(STATIC):
                    given.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope["method"], path, headers)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        try:
            body = await _bounded_body(headers, receive) if scope["method"] not in SAFE else b""
        except _Gone:
            return
        if body is None:
            refused = _refuse(path, 413, f"the body is longer than {LONGEST_BODY_BYTES} bytes")
            refused.headers["connection"] = "close"
            await refused(scope, receive, send_guarded)
            return
        await self._app(scope, _replayed(body, receive) if scope["method"] not in SAFE else receive, send_guarded)

    def _refusal(self, method: str, path: str, headers: Headers) -> Response | None:
        if path in OPEN:
            return None
        host = headers.get("host", "")
        if _name(host) not in self._hosts:
            return _refuse(path, 403, f"this server does not go by the name {host[:200]!r}: add it to web.allowed_hosts")
        if method not in SAFE and not _same_origin(headers, host):
            return _refuse(path, 403, "this request comes from a page of another site")
        if path in WITHOUT_TOKEN or path.startswith(STATIC):
            return None
        given = headers.get("authorization")
        if given is not None:
            scheme, _, token = given.partition(" ")
            right = scheme.lower() == "bearer" and self._sessions.is_token(token.strip().encode("latin-1", "replace"))
            return None if right else _refuse(path, 401, "the token is not right: it is in run/token of the home")
        if self._sessions.holds(session_cookie(headers)) and (method in SAFE or not path.startswith(API)):
            return None
        if path.startswith(API):
            return _refuse(path, 401, "give the token, as in 'Authorization: Bearer TOKEN': it is in run/token of the home")
        return RedirectResponse("/login", status_code=303)


def session_cookie(headers: Headers) -> str:
    """The cookie of the session; empty if there is none."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _name(host: str) -> str:
    """The name in a Host header, without the port, in small letters; empty if it is none."""
    try:
        parts = urlsplit(f"//{host}")
        return (parts.hostname or "") if parts.netloc == host and "@" not in host and parts.port != 0 else ""
    except ValueError:
        return ""


def _same_origin(headers: Headers, host: str) -> bool:
    """Whether a browser sent it from a page of ours, or no browser did."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


def _refuse(path: str, status: int, why: str) -> Response:
    challenge = {"www-authenticate": "Bearer"} if status == 401 else None
    if path.startswith(API):
        return JSONResponse({"error": why}, status_code=status, headers=challenge)
    return Response(why + "\n", status_code=status, media_type="text/plain; charset=utf-8", headers=challenge)


class _Gone(Exception):
    """The client has left in the middle of a body, whose beginning must not be taken for the whole."""


async def _bounded_body(headers: Headers, receive: Receive) -> bytes | None:
    """The whole body; None if it is too long, of which no more is read. Raises `_Gone`."""
    said = headers.get("content-length", "0")
    if said.isascii() and said.isdigit() and int(said[:12]) > LONGEST_BODY_BYTES:
        return None
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _Gone
        body += message.get("body", b"")
        if len(body) > LONGEST_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body again for the application; what comes after it, as that the client has gone, is that of the server."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
