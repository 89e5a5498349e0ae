"""The first page: what the agent does now, and why nothing more happens."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from perdure.agent.commands.status import report
from perdure.agent.web.pages.rendering import page
from perdure.agent.web.stores import AtHome

router = APIRouter(include_in_schema=False)


@router.get("/")
def now(request: Request, at: AtHome) -> Response:
    with at.reading() as store:
        status = report(store)
    return page(request, "now.html", status=status.as_json())
