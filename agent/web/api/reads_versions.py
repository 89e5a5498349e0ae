"""Versions, and what is known of them: gates with their pairs, two versions on the same seeds, what was kept, and the capability panel."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query as Q
from fastapi.responses import Response
from pydantic import Field, model_validator

from perdure.agent.show.home_documents import gate_document, panel_of, version_document
from perdure.agent.web.api.answer_keys import GateAnswer, PairAnswer, VersionAnswer, VersionLine
from perdure.agent.web.api.answering import (
    LARGEST,
    MISSING,
    EnvironmentName,
    Id,
    Number,
    Page,
    Part,
    Query,
    VersionName,
    answer,
    api_router,
)
from perdure.agent.web.evidence.replayed_gate import replay_gate
from perdure.agent.web.evidence.version_list import page_of_versions
from perdure.agent.web.stores import AtHome
from perdure.agent.web.views.retention_matrix import Which, gate_pairs, retention_document
from perdure.agent.web.views.side_by_side import against, same_seed
from perdure.memory.gates import get_gate
from perdure.memory.json_value import Document
from perdure.memory.records import Role
from perdure.memory.versions import as_json

router = api_router("versions")


class VersionQuery(Part):
    before: VersionName | None = Field(default=None, description="only those that are older than this one: the last of the page before")


class PairQuery(Query):
    environment: EnvironmentName | None = None
    role: Role | None = None
    limit: int = Field(default=1000, ge=1, le=10_000, description="how many at most")


class AgainstQuery(Page):
    environment: EnvironmentName | None = None
    seed: int | None = Field(default=None, ge=0, le=LARGEST, description="of an environment: both answers to it, down to tokens")
    before: Id | None = Field(default=None, description="the number `next` of the page before")

    @model_validator(mode="after")
    def _seed_of_an_environment(self) -> AgainstQuery:
        if self.seed is not None and self.environment is None:
            raise ValueError("a seed is of an environment: name that too")
        return self


class RetentionQuery(Query):
    which: Which = Field(default="served", description="versions that serve or served, or all")
    limit: int = Field(default=40, ge=1, le=200, description="of the newest versions, at most")


class PanelQuery(Query):
    version: VersionName | None = Field(default=None, description="the serving one by default")
    scores: Annotated[str, Field(pattern="^(choice|all)$")] = Field(default="choice", description="choice, or all: also greedy answers")


@router.get("/versions", responses={200: {"model": list[VersionLine]}, **MISSING})
def versions(at: AtHome, asked: Annotated[VersionQuery, Q()]) -> Response:
    """Versions, newest first, as `perdure version list --json`."""
    with at.reading() as store:
        found, _ = page_of_versions(store, asked.limit, asked.before)
    return answer([as_json(version) for version in found])


@router.get("/versions/{name}", responses={200: {"model": VersionAnswer}, **MISSING})
def version(at: AtHome, name: VersionName) -> Response:
    """A version with its gates, and when it served, as `perdure version show --json`."""
    with at.reading() as store:
        found = version_document(store, name)
    return answer(found)


@router.get("/versions/{name}/against/{other}", responses={200: {"model": Document}, **MISSING})
def compared(at: AtHome, name: VersionName, other: VersionName, asked: Annotated[AgainstQuery, Q()]) -> Response:
    """Two versions on the same held-out seeds; with a seed both answers to it, turn by turn, and the first turn that differs."""
    with at.reading() as store:
        if asked.seed is not None and asked.environment is not None:
            found = same_seed(store, name, other, asked.environment, asked.seed)
        else:
            found = against(store, name, other, environment=asked.environment, limit=asked.limit, before=asked.before)
    return answer(found)


@router.get("/gates/{number}", responses={200: {"model": GateAnswer}, **MISSING})
def gate(at: AtHome, number: Number) -> Response:
    """A gate with its verdict and its evidence."""
    with at.reading() as store:
        found = gate_document(store, number)
    return answer(found)


@router.get("/gates/{number}/wealth", responses={200: {"model": Document}, **MISSING})
def wealth(at: AtHome, number: Number) -> Response:
    """What each test of a gate was worth after every round, worked out again from its pairs, beside the line that it must reach."""
    with at.reading() as store:
        replay = replay_gate(store, get_gate(store, number))
    return answer({"gate": number, **({"rounds": None, "least_rounds": None, "tests": []} if replay is None else replay.as_json())})


@router.get("/gates/{number}/pairs", responses={200: {"model": list[PairAnswer]}, **MISSING})
def pairs(at: AtHome, number: Number, asked: Annotated[PairQuery, Q()]) -> Response:
    """The pairs of a gate, by environment and draw."""
    with at.reading() as store:
        found = gate_pairs(store, number, environment=asked.environment, role=asked.role, limit=asked.limit)
    return answer(found)


@router.get("/retention", responses={200: {"model": Document}})
def retention(at: AtHome, asked: Annotated[RetentionQuery, Q()]) -> Response:
    """Every version in every environment, and on every skill of the capability panel, with intervals."""
    with at.reading() as store:
        found = retention_document(store, which=asked.which, limit=asked.limit)
    return answer(found)


@router.get("/panel", responses={200: {"model": Document}, **MISSING})
def panel(at: AtHome, asked: Annotated[PanelQuery, Q()]) -> Response:
    """A version on the capability panel, as `perdure panel --json`, if it was scored."""
    with at.reading() as store:
        found = panel_of(store, asked.version, "all" if asked.scores == "all" else "choice")
    return answer(found)
