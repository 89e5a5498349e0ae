"""The application: every router, what becomes of errors, and the files that pages need.

Left out: who may ask (`access.py`), and the process that it runs in (`program.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from perdure import __version__
from perdure.agent.config_file import LoadedConfig
from perdure.agent.web import health
from perdure.agent.web.access import API, OPEN, SAFE, Access
from perdure.agent.web.api import live_events, reads_home, reads_learning, reads_play, reads_versions, writes
from perdure.agent.web.api.answering import RETRY_S, encoded
from perdure.agent.web.crashes import Crashes
from perdure.agent.web.kept_status import KeptStatus
from perdure.agent.web.live import Live
from perdure.agent.web.pages import acts, environments_page, learning_page, now, signing_in, system_page, tasks_page
from perdure.agent.web.pages.evidence import against_pages, episode_pages, gate_page, retention_page, study_pages, version_pages
from perdure.agent.web.pages.rendering import error_page, page
from perdure.agent.web.stores import NoStoreYet, ServedHome
from perdure.agent.web.tokens import Sessions, read_or_make_token, token_path
from perdure.memory.errors import Conflict, InputError, PerdureError, Unavailable, UnknownError

HERE = Path(__file__).parent
LOOPBACK = ("127.0.0.1", "localhost", "::1")
API_ROUTERS = (
    health.router,
    reads_home.router,
    reads_play.router,
    reads_versions.router,
    reads_learning.router,
    live_events.router,
    writes.router,
)
PAGE_ROUTERS = (
    signing_in.router,
    acts.router,
    now.router,
    learning_page.router,
    tasks_page.router,
    environments_page.router,
    system_page.router,
    retention_page.router,
    version_pages.router,
    against_pages.router,
    gate_page.router,
    episode_pages.router,
    study_pages.router,
)


def application(home: Path, loaded: LoadedConfig) -> FastAPI:
    """The application over a home, which need not have a store yet. Raises as `read_or_make_token` does."""
    web = loaded.config.web
    sessions = Sessions(read_or_make_token(token_path(home, web.token_file), links=bool(web.token_file)))
    app = FastAPI(
        title="Perdure",
        version=__version__,
        summary="What an agent that learns from its own work is doing, and what a person may change of it.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        redirect_slashes=False,  # no answer leads to an address that the request named
    )
    app.state.home = served = ServedHome(path=home, loaded=loaded)
    app.state.status = KeptStatus(served)
    app.state.live = Live(served)
    app.state.sessions = sessions
    for router in (*API_ROUTERS, *PAGE_ROUTERS):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.add_exception_handler(PerdureError, _failed)
    app.add_exception_handler(RequestValidationError, _not_understood)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_middleware(Access, sessions=sessions, hosts=(*LOOPBACK, web.host, *web.allowed_hosts))
    app.add_middleware(Crashes, logs=home / "logs")
    return app


def status_of(error: PerdureError) -> int:
    """The HTTP status that says what kind of error it is."""
    if isinstance(error, InputError):
        return 404 if isinstance(error, UnknownError) else 409 if isinstance(error, Conflict) else 400
    return 503


def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, PerdureError)
    if request.url.path in OPEN:
        return PlainTextResponse(f"{error}\n", status_code=503)
    if request.method in SAFE and not request.url.path.startswith(API) and isinstance(error, NoStoreYet):
        return page(request, "no_store.html", home=str(request.app.state.home.path))
    again = {"retry-after": str(RETRY_S), "connection": "close"} if isinstance(error, Unavailable) else None
    return _answer(request, status_of(error), str(error), again)


def _not_understood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{'.'.join(str(part) for part in one['loc'][1:]) or one['loc'][0]}: {one['msg']}" for one in error.errors()[:5])
    return _answer(request, 422, told)


def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(request, error.status_code, str(error.detail), error.headers)


def _answer(request: Request, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    line = " ".join(text.split())[:2000]
    if request.url.path.startswith(API):
        return Response(encoded({"error": line}), status_code=status, headers=headers, media_type="application/json")
    answer = error_page(request, status, line)
    answer.headers.update(headers or {})
    return answer
