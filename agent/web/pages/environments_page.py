"""The environments of the home: how the serving version does in each, its anchor and margin, what a check found; retire and restore.

Left out: adding one, which names code and so is done in the settings of the stream.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from perdure.agent.web.pages.rendering import page
from perdure.agent.web.stores import AtHome
from perdure.agent.web.views.environment_table import environments_document
from perdure.memory.errors import UnknownError

router = APIRouter(include_in_schema=False)


@router.get("/environments")
def environments(request: Request, at: AtHome, name: Annotated[str, Query(max_length=2000)] = "") -> Response:
    with at.reading() as store:
        shown = environments_document(store, at.loaded.config.gate)
    if not name:
        return page(request, "environments.html", shown=shown)
    one = next((one for one in shown["environments"] if one["name"] == name), None)
    if one is None:
        raise UnknownError(f"no environment {name!r} in this home: the page of environments lists those that there are")
    return page(request, "environment.html", shown=shown, one=one)
