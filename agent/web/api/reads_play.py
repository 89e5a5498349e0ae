"""What is played: tasks, episodes down to their tokens, and the environments of the home."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query as Q
from fastapi.responses import Response
from pydantic import Field

from perdure.agent.show.home_documents import environment_document, episode_document
from perdure.agent.web.api.answer_keys import EnvironmentAnswer, EpisodeAnswer, EpisodeLine, TaskAnswer
from perdure.agent.web.api.answering import LARGEST, MISSING, EnvironmentName, Number, Page, Part, Query, VersionName, answer, api_router
from perdure.agent.web.stores import AtHome
from perdure.memory.environments import list_environments, require
from perdure.memory.records import Purpose, TaskState
from perdure.memory.tasks import get_task, list_tasks
from perdure.memory.trajectories.episodes import Outcome, list_episodes
from perdure.memory.versions import get_version

router = api_router("play")


class TaskQuery(Page):
    state: TaskState | None = None


class EpisodeQuery(Page):
    environment: EnvironmentName | None = Field(default=None, description="by its full name")
    version: VersionName | None = Field(default=None, description="that played it")
    purpose: Purpose | None = None
    outcome: Outcome | None = Field(default=None, description="a failure is an episode that completed without success")


class TurnsQuery(Query):
    first: int = Field(default=0, ge=0, le=LARGEST, description="the number of the first turn")
    limit: int = Field(default=200, ge=1, le=1000, description="how many turns at most")


class EnvironmentQuery(Part):
    after: EnvironmentName | None = Field(default=None, description="only those that came after this one: the last of the page before")
    name: EnvironmentName | None = Field(default=None, description="only this one, with what its versions came to")


@router.get("/tasks", responses={200: {"model": list[TaskAnswer]}})
def tasks(at: AtHome, asked: Annotated[TaskQuery, Q()]) -> Response:
    """Tasks with their states and episodes, newest first, as `perdure task list --json`."""
    with at.reading() as store:
        found = [task.as_json() for task in list_tasks(store, asked.limit, before=asked.before, state=asked.state)]
    return answer(found)


@router.get("/tasks/{number}", responses={200: {"model": TaskAnswer}, **MISSING})
def task(at: AtHome, number: Number) -> Response:
    """One task."""
    with at.reading() as store:
        found = get_task(store, number).as_json()
    return answer(found)


@router.get("/episodes", responses={200: {"model": list[EpisodeLine]}, **MISSING})
def episodes(at: AtHome, asked: Annotated[EpisodeQuery, Q()]) -> Response:
    """Episodes, newest first, as `perdure episode list --json`."""
    with at.reading() as store:
        if asked.environment is not None:
            require(store, asked.environment)
        if asked.version is not None:
            get_version(store, asked.version)
        listed = list_episodes(
            store,
            asked.environment,
            asked.version,
            asked.limit,
            purpose=asked.purpose,
            outcome=asked.outcome,
            before=asked.before,
        )
    return answer([episode.as_json() for episode in listed])


@router.get("/episodes/{number}", responses={200: {"model": EpisodeAnswer}, **MISSING})
def episode(at: AtHome, number: Number, asked: Annotated[TurnsQuery, Q()]) -> Response:
    """An episode turn by turn: texts, token ids, log-probs and rewards, as `perdure episode show --json`."""
    with at.reading() as store:
        found = episode_document(store, number)
    return answer({**found, "turns": found["turns"][asked.first : asked.first + asked.limit]})


@router.get("/environments", responses={200: {"model": list[EnvironmentAnswer] | EnvironmentAnswer}, **MISSING})
def environments(at: AtHome, asked: Annotated[EnvironmentQuery, Q()]) -> Response:
    """The environments of the home, oldest first; with a name that one alone, and how each version did there in live play."""
    with at.reading() as store:
        if asked.name is not None:
            return answer(environment_document(store, asked.name))
        if asked.after is not None:
            require(store, asked.after)
        every = list_environments(store)
    begin = 0 if asked.after is None else [row.name for row in every].index(asked.after) + 1
    return answer([row.as_json() for row in every[begin : begin + asked.limit]])
