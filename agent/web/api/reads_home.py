"""What the home as a whole is doing."""

from __future__ import annotations

from fastapi import APIRouter

from perdure.agent.commands.status import report
from perdure.agent.web.stores import AtHome
from perdure.memory.json_value import Document

router = APIRouter(prefix="/api/v1", tags=["home"])


@router.get("/status")
def status(at: AtHome) -> Document:
    """What runs, what serves, and why nothing more happens: as `perdure status --json`."""
    with at.reading() as store:
        return report(store).as_json()
