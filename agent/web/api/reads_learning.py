"""Whether it learns: jobs, their updates, live reward and success over time, and studies."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from fastapi import Query as Q
from fastapi.responses import Response
from pydantic import Field

from perdure.agent.show.home_documents import job_document
from perdure.agent.studies.listed_studies import list_studies
from perdure.agent.web.api.answer_keys import JobAnswer, JobLine, StudyAnswer
from perdure.agent.web.api.answering import (
    MISSING,
    MOST_NAME,
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
from perdure.agent.web.evidence.study_parts import study_document, study_folder
from perdure.agent.web.stores import AtHome
from perdure.agent.web.views.learning_curves import learning_document
from perdure.memory.contracts.orders import JobState
from perdure.memory.errors import UnknownError
from perdure.memory.jobs import as_json, list_jobs
from perdure.memory.json_value import Document

router = api_router("learning")
StudyName = Annotated[str, Path(min_length=1, max_length=MOST_NAME, description="as `/studies` gives it")]
LAST_SECOND = 253_402_300_799
"""Of the year 9999."""


class JobQuery(Page):
    state: JobState | None = None


class StudyQuery(Part):
    after: str | None = Field(default=None, max_length=MOST_NAME, description="only those after this one: the last of the page before")


class LearningQuery(Query):
    environment: EnvironmentName | None = None
    version: VersionName | None = None
    since: float | None = Field(
        default=None, ge=0, le=LAST_SECOND, allow_inf_nan=False, description="Unix seconds; by default the first episode"
    )
    until: float | None = Field(default=None, ge=0, le=LAST_SECOND, allow_inf_nan=False, description="Unix seconds; by default now")
    bins: int = Field(default=48, ge=1, le=200, description="stretches of time")
    jobs: int = Field(default=20, ge=0, le=200, description="learning jobs with their updates, newest first, at most")
    before: Id | None = Field(default=None, description="only jobs with a lower number")


@router.get("/jobs", responses={200: {"model": list[JobLine]}})
def jobs(at: AtHome, asked: Annotated[JobQuery, Q()]) -> Response:
    """Jobs with their states, newest first, as `perdure job list --json`."""
    with at.reading() as store:
        found = [as_json(job) for job in list_jobs(store, asked.limit, before=asked.before, state=asked.state)]
    return answer(found)


@router.get("/jobs/{number}", responses={200: {"model": JobAnswer}, **MISSING})
def job(at: AtHome, number: Number) -> Response:
    """A job: what was ordered, its state, and what it led to, as `perdure job show --json`."""
    with at.reading() as store:
        found = job_document(store, number)
    return answer(found)


@router.get("/learning", responses={200: {"model": Document}, **MISSING})
def learning(at: AtHome, asked: Annotated[LearningQuery, Q()]) -> Response:
    """Live reward and success by environment and version over time, with intervals over tasks, and the diagnostics of updates."""
    with at.reading() as store:
        found = learning_document(
            store,
            environment=asked.environment,
            version=asked.version,
            since=asked.since,
            until=asked.until,
            bins=asked.bins,
            jobs=asked.jobs,
            before=asked.before,
        )
    return answer(found)


@router.get("/studies", responses={200: {"model": list[StudyAnswer]}, **MISSING})
def studies(at: AtHome, asked: Annotated[StudyQuery, Q()]) -> Response:
    """The studies that come with Perdure and those that were run, as `perdure study list --json`."""
    every = list_studies(at.studies)
    names = [one.name for one in every]
    if asked.after is not None and asked.after not in names:
        raise UnknownError(f"no study {asked.after[:100]!r}; `perdure study list` shows those that are there")
    begin = 0 if asked.after is None else names.index(asked.after) + 1
    return answer([one.as_json() for one in every[begin : begin + asked.limit]])


@router.get("/studies/{name}", responses={200: {"model": Document}, **MISSING})
def study(at: AtHome, name: StudyName) -> Response:
    """What a study came to: its cells, and every metric of every arm over seeds, by stream; `perdure study report` has the pages."""
    return answer(study_document(study_folder(at.studies, name)))


@router.get("/report", responses={200: {"model": Document}})
def report(at: AtHome) -> Response:
    """What this home's learning gained, kept, lost and cost, as `perdure report --json`."""
    from perdure.agent.show.home_report import report_document  # the metrics take a second to load

    with at.reading() as store:
        found = report_document(store)
    return answer(found)
