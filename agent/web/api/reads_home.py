"""What the home as a whole is doing: its status, what happens now, the machine, the event log, and what persons have changed."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query as Q
from fastapi import Request
from fastapi.responses import Response
from pydantic import Field

from perdure.agent.config_file import settings
from perdure.agent.web.api.answer_keys import ChangeAnswer, EventAnswer, SettingAnswer, StatusAnswer
from perdure.agent.web.api.answering import Page, Query, answer, api_router
from perdure.agent.web.kept_status import KeptStatus
from perdure.agent.web.stores import AtHome
from perdure.agent.web.views.now_playing import now_document
from perdure.agent.web.views.system_health import system_document
from perdure.memory.changes import list_changes
from perdure.memory.json_value import Document
from perdure.memory.processes import events

router = api_router("home")


class NowQuery(Query):
    episodes: int = Field(default=8, ge=1, le=64, description="in play, at most")
    turns: int = Field(default=12, ge=1, le=200, description="the last ones of each, at most")


class SystemQuery(Query):
    lines: int = Field(default=40, ge=0, le=200, description="the last ones of each log, at most")
    errors: int = Field(default=20, ge=0, le=1000, description="events that say that something went wrong, at most")


@router.get("/status", responses={200: {"model": StatusAnswer}})
async def status(request: Request) -> Response:
    """What runs, what serves, and why nothing more happens: as `perdure status --json`. It may be a second old."""
    kept = request.app.state.status
    assert isinstance(kept, KeptStatus)
    return Response(await kept.document(), media_type="application/json")


@router.get("/now", responses={200: {"model": Document}})
def now(at: AtHome, asked: Annotated[NowQuery, Q()]) -> Response:
    """Episodes in play turn by turn, the job with its progress, the queue, and why nothing more happens. Long texts are cut."""
    with at.reading() as store:
        found = now_document(store, episodes=asked.episodes, turns=asked.turns)
    return answer(found)


@router.get("/system", responses={200: {"model": Document}})
def system(at: AtHome, asked: Annotated[SystemQuery, Q()]) -> Response:
    """Disk by part against the budget, memory, processes, the last errors, and the ends of the logs."""
    with at.reading() as store:
        found = system_document(store, at.loaded.config.disk, lines=asked.lines, errors=asked.errors)
    return answer(found)


@router.get("/config", responses={200: {"model": list[SettingAnswer]}})
def config(at: AtHome) -> Response:
    """Every setting in force with its origin, as `perdure config show --json`; of a secret only whether there is one."""
    return answer([setting.as_json() for setting in settings(at.loaded)])


@router.get("/log", responses={200: {"model": list[EventAnswer]}})
def log(at: AtHome, asked: Annotated[Page, Q()]) -> Response:
    """The event log: what the runtime did by itself, newest first."""
    with at.reading() as store:
        found = [event.as_json() for event in events(store, asked.limit, before=asked.before)]
    return answer(found)


@router.get("/changes", responses={200: {"model": list[ChangeAnswer]}})
def changes(at: AtHome, asked: Annotated[Page, Q()]) -> Response:
    """What persons have changed, newest first: who, how, what and why, as `perdure change list --json`."""
    with at.reading() as store:
        found = [change.as_json() for change in list_changes(store, asked.limit, asked.before)]
    return answer(found)
