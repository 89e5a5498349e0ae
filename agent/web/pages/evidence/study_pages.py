"""Studies: which there are and how far they are, and the report of one as tables, a part at a time."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response
from markupsafe import Markup

from perdure.agent.studies.listed_studies import list_studies
from perdure.agent.studies.study_file import cell_counts
from perdure.agent.web.evidence.study_parts import OVERVIEW, PARTS, study_folder, study_part
from perdure.agent.web.pages.rendering import page
from perdure.agent.web.stores import AtHome
from perdure.memory.errors import PerdureError, UnknownError

router = APIRouter(include_in_schema=False)


@router.get("/studies")
def studies(request: Request, at: AtHome) -> Response:
    newest_first = sorted(list_studies(at.studies), key=lambda one: (not one.is_there, -((one.counts.last if one.counts else None) or 0.0)))
    return page(request, "studies.html", studies=newest_first, keep=str(at.studies))


@router.get("/studies/{name}")
def study(request: Request, at: AtHome, name: str, part: str = OVERVIEW) -> Response:
    if part not in PARTS:
        raise HTTPException(404, f"a study has no part {part[:40]!r}: there are {', '.join(PARTS)}")
    try:
        folder = study_folder(at.studies, name)
        counts = cell_counts(folder)
        tried = bool(counts.done or counts.failed)
        html = study_part(folder, part) if tried else ""
    except PerdureError as error:  # of the study, and not of the home, which need not have a store
        raise HTTPException(404 if isinstance(error, UnknownError) else 400, str(error)) from error
    return page(
        request,
        "study.html",
        name=name,
        counts=counts,
        tried=tried,
        parts=PARTS,
        part=part,
        html=None if html is None else Markup(html),  # its texts are escaped already
    )
