"""What all routes of the API share: how a document becomes an answer, which errors there are, and the parameters of listings.

A parameter that a route does not know is refused, so that no filter is left out by a misspelling. Left out: who may ask (`access.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Security
from fastapi.responses import Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from perdure.memory.json_value import Document, to_json

PREFIX = "/api/v1"
LARGEST = 2**63 - 1
MOST_NAME = 2000
"""Characters of the name of an environment."""
RETRY_S = 5
"""After how many seconds something is worth another try that the disk or the store could not take."""


class Problem(BaseModel):
    """What was wrong, in one line, with what to do about it."""

    error: str


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "It cannot be done as asked."},
    401: {"model": Problem, "description": "There is no token, or it is not right."},
    403: {"model": Problem, "description": "The Host is unknown, or the request comes from a page of another site."},
    422: {"model": Problem, "description": "A parameter is missing, unknown, or out of its bounds."},
    503: {"model": Problem, "description": "The store cannot be read or written now; Retry-After says when it may be."},
}
MISSING: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "Nothing has that name or number."}}

BEARER = HTTPBearer(auto_error=False, description="The token in `run/token` of the home.")
"""For the description of the API: `access.py` has looked at the token already."""

Number = Annotated[int, Path(ge=1, le=LARGEST, examples=[1])]
VersionName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$"), Field(examples=["v1"])]
EnvironmentName = Annotated[str, StringConstraints(min_length=1, max_length=MOST_NAME), Field(examples=["perdure:largest-number?shots=3"])]
Id = Annotated[int, Field(ge=1, le=LARGEST)]


class Query(BaseModel):
    """The parameters of one route."""

    model_config = ConfigDict(extra="forbid")


class Part(Query):
    """The beginning of a listing."""

    limit: int = Field(default=100, ge=1, le=1000, description="how many at most")


class Page(Part):
    """A part of a listing, newest first."""

    before: Id | None = Field(default=None, description="only those with a lower number: for the next page the last number of this one")


def api_router(tag: str) -> APIRouter:
    """A router of routes under the prefix, with what each may answer."""
    return APIRouter(prefix=PREFIX, tags=[tag], dependencies=[Security(BEARER)], responses=ERRORS)


def answer(document: Document | Sequence[Document]) -> Response:
    """A document as it is, as `--json` prints it. Numbers that are not finite become null."""
    return Response(encoded(document), media_type="application/json")


def encoded(document: Document | Sequence[Document]) -> bytes:
    """As UTF-8; what has none, such as the name of a file, is shown as '?'."""
    return to_json(document).encode("utf-8", "replace")
