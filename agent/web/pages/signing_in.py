"""Signing in with the token, and out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from perdure.agent.show.terminal import visible
from perdure.agent.web.access import COOKIE
from perdure.agent.web.pages.forms import OwnForm
from perdure.agent.web.pages.rendering import page
from perdure.agent.web.tokens import SESSION_S, Sessions
from perdure.memory.changes import MOST_NAME
from perdure.memory.json_value import storable

router = APIRouter(include_in_schema=False)


@router.get("/login")
def login(request: Request) -> Response:
    return page(request, "login.html", wrong=False)


@router.post("/act/login")
def sign_in(
    request: Request, token: Annotated[str, Form(max_length=500)], name: Annotated[str, Form(max_length=MOST_NAME)] = ""
) -> Response:
    sessions = request.app.state.sessions
    assert isinstance(sessions, Sessions)
    if not sessions.is_token(token.strip().encode(errors="replace")):
        return page(request, "login.html", 401, wrong=True)
    answer = RedirectResponse("/", status_code=303)
    secure, known_as = request.url.scheme == "https", storable(visible(name).strip())[:MOST_NAME]
    answer.set_cookie(COOKIE, sessions.begin(known_as), max_age=SESSION_S, httponly=True, samesite="strict", secure=secure)
    return answer


@router.post("/act/logout", dependencies=[OwnForm])
def sign_out() -> Response:
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
