"""The application: every router, what becomes of errors, and the files that pages need.

Left out: who may ask (`access.py`), and the process that it runs in (`program.py`).
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from perdure import __version__
from perdure.agent.config_file import LoadedConfig
from perdure.agent.web import health
from perdure.agent.web.access import API, SAFE, Access
from perdure.agent.web.api import reads_home
from perdure.agent.web.pages import acts, environments_page, learning_page, now, signing_in, system_page, tasks_page
from perdure.agent.web.pages.rendering import error_page, page
from perdure.agent.web.stores import ServedHome
from perdure.agent.web.tokens import Sessions, read_or_make_token, token_path
from perdure.memory.errors import Conflict, InputError, PerdureError, UnknownError
from perdure.memory.store import FILE_NAME

HERE = Path(__file__).parent
LOOPBACK = ("127.0.0.1", "localhost", "::1")
API_ROUTERS = (health.router, reads_home.router)
PAGE_ROUTERS = (
    signing_in.router,
    acts.router,
    now.router,
    learning_page.router,
    tasks_page.router,
    environments_page.router,
    system_page.router,
)


def application(home: Path, loaded: LoadedConfig) -> FastAPI:
    """The application over a home, which need not have a store yet. Raises as `read_or_make_token` does."""
    web = loaded.config.web
    sessions = Sessions(read_or_make_token(token_path(home, web.token_file)))
    app = FastAPI(
        title="Perdure",
        version=__version__,
        summary="What an agent that learns from its own work is doing, and what a person may change of it.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    app.state.home = ServedHome(path=home, loaded=loaded)
    app.state.sessions = sessions
    for router in (*API_ROUTERS, *PAGE_ROUTERS):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.add_exception_handler(PerdureError, _failed)
    app.add_exception_handler(RequestValidationError, _not_understood)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_middleware(Access, sessions=sessions, hosts=(*LOOPBACK, web.host, *web.allowed_hosts))
    return app


def status_of(error: PerdureError) -> int:
    """The HTTP status that says what kind of error it is."""
    return 404 if isinstance(error, UnknownError) else 409 if isinstance(error, Conflict) else 400 if isinstance(error, InputError) else 503


def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, PerdureError)
    at = request.app.state.home
    if request.method in SAFE and not request.url.path.startswith(API) and not (at.path / FILE_NAME).is_file():
        return page(request, "no_store.html", home=str(at.path))
    return _answer(request, status_of(error), str(error))


def _not_understood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{'.'.join(str(part) for part in one['loc'][1:]) or one['loc'][0]}: {one['msg']}" for one in error.errors()[:5])
    return _answer(request, 422, told)


def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(request, error.status_code, str(error.detail))


def _answer(request: Request, status: int, text: str) -> Response:
    line = " ".join(text.split())[:2000]
    if request.url.path.startswith(API):
        return JSONResponse({"error": line}, status_code=status)
    return error_page(request, status, line)
