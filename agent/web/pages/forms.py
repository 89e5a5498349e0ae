"""The forms of pages: each carries the mark of its session and a key, so that it acts once, however often it is sent.

The answer to one is the way to a page of ours, which says once what was done: in a cookie that is signed, since a text in an address could
come from anybody. Left out: the forms themselves (`templates/macros.html`), and what they do (`acts.py`).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from perdure.agent.web.access import session_cookie
from perdure.agent.web.tokens import SAID_S, Sessions
from perdure.memory.changes import Who

SAID_COOKIE = "perdure_said"
NAMELESS = "token"
"""Who made a change, if they gave no name."""
LONGEST_SAID = 500
"""Characters of what a page says of a form."""


async def _own_form(request: Request, csrf: Annotated[str, Form(max_length=200)]) -> None:
    sessions = request.app.state.sessions
    assert isinstance(sessions, Sessions)
    cookie = session_cookie(request.headers)
    if not (sessions.holds(cookie) and sessions.is_form_mark(cookie, csrf)):
        raise HTTPException(403, "this form is not of your session: load its page again, and send it from there")


OwnForm = Depends(_own_form)
"""In the `dependencies` of every route that takes a form: refuses one that no page of this session showed."""


def who(request: Request) -> Who:
    """The person of this session, by the name that they gave when they signed in."""
    sessions = request.app.state.sessions
    assert isinstance(sessions, Sessions)
    return Who(name=sessions.name_in(session_cookie(request.headers)) or NAMELESS, via="page")


def done(request: Request, path: str, text: str) -> Response:
    """To a page of ours, which says this once. `path` is never taken from the request as it is."""
    if not path.startswith("/") or path.startswith(("//", "/\\")):
        raise ValueError(f"{path!r} is no path of ours")
    sessions = request.app.state.sessions
    assert isinstance(sessions, Sessions)
    answer = RedirectResponse(path, status_code=303)
    sealed = sessions.seal(session_cookie(request.headers), text[:LONGEST_SAID])
    answer.set_cookie(SAID_COOKIE, sealed, max_age=SAID_S, httponly=True, samesite="strict", secure=request.url.scheme == "https")
    return answer


def said(request: Request) -> str | None:
    """What the form before this page did; None if there was none."""
    sessions = request.app.state.sessions
    assert isinstance(sessions, Sessions)
    sealed = request.cookies.get(SAID_COOKIE)
    return None if sealed is None else sessions.unsealed(session_cookie(request.headers), sealed)
