"""`/livez` and `/readyz`, for what starts and watches this process."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from perdure.agent.web.stores import AtHome

router = APIRouter(include_in_schema=False)


@router.get("/livez")
async def livez() -> PlainTextResponse:
    """This process answers."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
def readyz(at: AtHome) -> PlainTextResponse:
    """The home has a store of this program's schema."""
    with at.reading():
        return PlainTextResponse("ok\n")
