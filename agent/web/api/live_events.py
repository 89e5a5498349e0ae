"""The stream of what changes."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from perdure.agent.web.api.answering import api_router
from perdure.agent.web.live import EventStream, Live
from perdure.memory.errors import Unavailable

router = api_router("home")


@router.get(
    "/events",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def changes_live(request: Request) -> Response:
    """Server-sent events: each `change` names the kinds of things that changed (episode, job, version, event, pause).

    The first names them all. 64 clients at most listen at once.
    """
    live = request.app.state.live
    assert isinstance(live, Live)
    listener = live.join()
    if listener is None:
        raise Unavailable("as many listen already as may: close another page, or ask again later")
    return EventStream(live, listener)
