"""What is to be attempted: the tasks by their state, the stages of the stream, and a form that adds tasks.

Left out: what became of a task's episodes (the page of episodes).
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from perdure.agent.stream.stage_report import stream_line, stream_report
from perdure.agent.web.pages.acts import MOST_TASKS
from perdure.agent.web.pages.rendering import page
from perdure.agent.web.stores import AtHome
from perdure.memory import tasks as task_store
from perdure.memory.environments import environments_in_use
from perdure.memory.records import TaskState
from perdure.memory.stages import list_stages, progress

router = APIRouter(include_in_schema=False)

ROWS = 50


@router.get("/tasks")
def tasks(
    request: Request,
    at: AtHome,
    state: Literal["", "queued", "leased", "done", "failed"] = "",
    before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
) -> Response:
    asked: TaskState | None = state or None
    with at.reading() as store:
        listed = task_store.list_tasks(store, ROWS, before=before, state=asked)
        counts = task_store.counts(store)
        stream = stream_report(list_stages(store), progress(store))
        names = [row.name for row in environments_in_use(store)]
    return page(
        request,
        "tasks.html",
        tasks=[one.as_json() for one in listed],
        counts=counts,
        state=state,
        before=listed[-1].task.id if len(listed) == ROWS else None,
        first=before is None,
        stream=stream,
        stream_line=stream_line(stream),
        names=names,
        most=MOST_TASKS,
    )
