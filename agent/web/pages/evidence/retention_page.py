"""What was kept: versions in all environments and on all skills of the panel as heat maps; from a cell to its pairs or items."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response

from perdure.agent.web.evidence.heat_rows import heat_rows, versions_that_fit
from perdure.agent.web.evidence.one_cell import cell_evidence
from perdure.agent.web.evidence.one_skill import skill_evidence
from perdure.agent.web.pages.evidence.asked import Name
from perdure.agent.web.pages.rendering import page
from perdure.agent.web.stores import AtHome
from perdure.agent.web.views.retention_matrix import retention_document
from perdure.learners.panel.panel_items import BUILT_IN
from perdure.memory.environments import list_environments

MOST_VERSIONS = 40

router = APIRouter(include_in_schema=False)


@router.get("/retention")
def retention(request: Request, at: AtHome, which: Literal["served", "all"] = "served") -> Response:
    skills = len(list(BUILT_IN.glob("*.jsonl")))
    with at.reading() as store:
        columns = len(list_environments(store)) + skills
        document = retention_document(store, which=which, limit=versions_that_fit(columns, MOST_VERSIONS))
    return page(request, "retention.html", which=which, found=document, rows=heat_rows(document))


@router.get("/retention/{version}/skill")
def skill(request: Request, at: AtHome, version: str, name: Name) -> Response:
    """One cell of the panel: its items, those that lost most first."""
    with at.reading() as store:
        found = skill_evidence(store, version, name)
    return page(request, "retention_skill.html", skill=found)


@router.get("/retention/{version}")
def cell(request: Request, at: AtHome, version: str, environment: Name) -> Response:
    """One cell: the gates behind its score, each with the way to its pairs."""
    with at.reading() as store:
        found = cell_evidence(store, version, environment)
    return page(request, "retention_cell.html", cell=found)
