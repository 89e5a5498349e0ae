"""`/livez`, `/readyz` and `/metrics`, for what starts, watches and draws this home. They need neither token nor Host (`access.py`)."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response

from perdure.agent.telemetry.metrics import CONTENT_TYPE, metrics_text
from perdure.agent.telemetry.readiness import readiness
from perdure.agent.web.stores import AtHome

router = APIRouter(include_in_schema=False)


@router.get("/livez")
async def livez() -> PlainTextResponse:
    """Whether this process answers. The daemon is not looked at."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
def readyz(at: AtHome) -> PlainTextResponse:
    """The daemon plays with a version that serves, and its store can be written; 503 and the reason if not."""
    ready, why = readiness(at.path)
    return PlainTextResponse(f"{why}\n", status_code=200 if ready else 503)


@router.get("/metrics")
def metrics(at: AtHome) -> Response:
    """What Prometheus collects."""
    return Response(metrics_text(at.path, at.loaded.config.disk), media_type=CONTENT_TYPE)
