"""The first page: what the agent does now, turn by turn, and why nothing more happens.

Its parts are renewed one by one when there is news. Left out: what they show (`agent/web/views/now_playing.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from perdure.agent.web.pages.drawing import curve
from perdure.agent.web.pages.rendering import page, part
from perdure.agent.web.stores import AtHome
from perdure.agent.web.views.now_playing import now_document
from perdure.memory.gates import last_verdict
from perdure.memory.jobs import steps
from perdure.memory.json_value import Document
from perdure.memory.store import Store

router = APIRouter(include_in_schema=False)

EPISODES = 9
"""In play that are shown."""
TURNS = 3
"""Of each, the last."""
Part = Literal["state", "play", "job", "queue", "events"]


@router.get("/")
def now(request: Request, at: AtHome, of: Annotated[Part | None, Query(alias="part")] = None) -> Response:
    with at.reading() as store:
        shown = now_document(store, episodes=EPISODES, turns=TURNS)
        curves = [] if shown["job"] is None else _curves(store, shown["job"]["id"])
        verdict = last_verdict(store)
    judged = None if verdict is None else {key: value for key, value in verdict.as_json().items() if key != "evidence"}
    values: Document = {"now": shown, "curves": curves, "verdict": judged}
    return page(request, "now.html", **values) if of is None else part(request, f"parts/now_{of}.html", **values)


def _curves(store: Store, job: int) -> list[Document]:
    """Reward and success over the updates of a job; none before its second update."""
    made = steps(store, job)
    series = {
        "reward": [step.update.groups.reward for step in made],
        "success": [step.update.groups.success for step in made],
        "negative log-likelihood": [step.update.nll for step in made],
    }
    known = {name: values for name, values in series.items() if any(value is not None for value in values)}
    return [{"name": name, **drawn} for name, values in known.items() if (drawn := curve(values)) is not None]
