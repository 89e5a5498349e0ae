"""The forms of pages: each carries the mark of its session and a key, so that it acts once, however often it is sent."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Form, HTTPException, Request

from perdure.agent.web.access import session_cookie
from perdure.agent.web.tokens import Sessions


async def _own_form(request: Request, csrf: Annotated[str, Form(max_length=200)]) -> None:
    sessions = request.app.state.sessions
    assert isinstance(sessions, Sessions)
    cookie = session_cookie(request.headers)
    if not (sessions.holds(cookie) and sessions.is_form_mark(cookie, csrf)):
        raise HTTPException(403, "this form is not of your session: load its page again, and send it from there")


OwnForm = Depends(_own_form)
"""In the `dependencies` of every route that takes a form: refuses one that no page of this session showed."""
