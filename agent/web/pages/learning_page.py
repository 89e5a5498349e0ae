"""Whether it learns: reward and success of live play over time, and what each update of a job measured.

Left out: how the numbers are made (`agent/web/views/learning_curves.py`), and what was kept (the page of retention).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from perdure.agent.web.pages.drawing import aligned, chart, line
from perdure.agent.web.pages.rendering import page, part
from perdure.agent.web.stores import AtHome
from perdure.agent.web.views.learning_curves import LEVEL, learning_document
from perdure.learners.gate.intervals import interval_of_mean
from perdure.learners.options import OWN
from perdure.memory import jobs as job_store
from perdure.memory.contracts.json_form import update_document
from perdure.memory.json_value import Document
from perdure.memory.store import Store

router = APIRouter(include_in_schema=False)

SPANS: dict[str, float] = {"hour": 3600.0, "day": 86_400.0, "week": 7 * 86_400.0, "month": 30 * 86_400.0}
BINS = 48
VERSIONS_OF_EACH, VERSIONS_OF_ONE = 5, 200
"""In the table, the newest: of every environment, and of one that was asked for."""
CHARTS = 12
JOBS = 20
UPDATES = 60
"""Of a job that the table has, the newest ones; the charts have all."""
DIAGNOSTICS = {
    "Reward and success": ("reward", "success", "old_success"),
    "KL to the base model": ("kl_base_new", "kl_base_old"),
    "KL to the serving version": ("kl_serving_new", "kl_serving_old"),
    "Entropy": ("entropy",),
    "Norm of the gradient": ("grad_norm",),
    "Learning rate": ("lr",),
    "Losses": ("nll", "kl_loss", "ewc_loss", "lwf_loss", "olora_loss", "distillation_loss"),
    "Sampler and learner": ("mismatch_kl", "staleness"),
}
"""Charts by their captions: the numbers of an update that each draws. docs/learners-reference.md says what they mean."""


@router.get("/learning")
def learning(
    request: Request,
    at: AtHome,
    environment: Annotated[str, Query(max_length=2000)] = "",
    span: Literal["all", "hour", "day", "week", "month"] = "all",
    measure: Literal["success", "reward"] = "success",
    job: Annotated[int | None, Query(ge=1, le=2**53)] = None,
    before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
    of: Annotated[Literal["updates"] | None, Query(alias="part")] = None,
) -> Response:
    if of is not None and job is not None:
        with at.reading() as store:
            return part(request, "parts/learning_updates.html", chosen=_updates(store, job))
    since = time.time() - SPANS[span] if span in SPANS else None
    newest = VERSIONS_OF_ONE if environment else VERSIONS_OF_EACH
    with at.reading() as store:
        shown = learning_document(store, environment=environment or None, since=since, bins=BINS, jobs=JOBS, before=before)
        chosen = _updates(store, job if job is not None else _worth_a_look(shown["jobs"]))
        names = [str(row["name"]) for row in store.rows("SELECT name FROM environment ORDER BY rowid")]
    return page(
        request,
        "learning.html",
        learning=shown,
        names=names,
        learners=list(OWN),
        asked={"environment": environment, "span": span, "measure": measure},
        job=job,
        chosen=chosen,
        before=shown["jobs"][-1]["job"] if len(shown["jobs"]) == JOBS else None,
        first=before is None,
        charts=[(one, _over_time(one, shown, measure)) for one in shown["environments"] if one["points"]][:CHARTS],
        most=CHARTS,
        newest=newest,
        rows=[(one["short"], one["environment"], row) for one in shown["environments"] for row in _by_version(one["points"])[-newest:]],
    )


def _over_time(environment: Document, shown: Document, measure: str) -> Document:
    """One line with its interval; versions that played in the same stretch of time stand side by side."""
    x, played = [], environment["points"]
    for n, point in enumerate(played):
        same = [other for other in played if other["bin"] == point["bin"]]
        x.append(point["at"] + ((same.index(point) + 0.5) / len(same) - 0.5) * shown["bin_s"] if len(same) > 1 else played[n]["at"])
    marks = [{"x": move["at"], "label": f"{move['to']}{' (back)' if move['kind'] == 'rollback' else ''}"} for move in shown["moves"]]
    series = line(measure, *([point[f"{measure}{end}"] for point in played] for end in ("", "_low", "_high")))
    span = [shown["start"], shown["start"] + shown["bin_s"] * BINS]
    return chart(x, [series], time=True, span=span, marks=marks, **({"range": [0, 1]} if measure == "success" else {}))


def _by_version(points: Sequence[Document]) -> list[Document]:
    """What each version did, in the order in which they played. Means are over tasks, as those of the points are."""
    played: dict[str, list[Document]] = {}
    for point in points:
        played.setdefault(point["version"], []).append(point)
    rows = []
    for version, of in played.items():
        tasks = sum(point["tasks"] for point in of)
        success, reward = (sum(point[key] * point["tasks"] for point in of) / tasks for key in ("success", "reward"))
        low, high = interval_of_mean(success, tasks, LEVEL)
        known = {"version": version, "episodes": sum(point["episodes"] for point in of), "tasks": tasks}
        rows.append({**known, "success": success, "low": low, "high": high, "reward": reward})
    return rows


def _worth_a_look(jobs: Sequence[Document]) -> int | None:
    """The newest job that has made an update; else the newest."""
    return next((one["job"] for one in jobs if one["updates"]), jobs[0]["job"] if jobs else None)


def _updates(store: Store, number: int | None) -> Document | None:
    """A job with its updates, in charts and in a table that has the columns with values."""
    if number is None:
        return None
    job = job_store.get_job(store, number)
    made = [update_document(step.update) for step in job_store.steps(store, number)]
    keys = [key for key in made[0] if key != "update" and any(one.get(key) is not None for one in made)] if made else []
    drawn = []
    for caption, wanted in DIAGNOSTICS.items():
        known = {key: [(float(one["update"]), one[key]) for one in made] for key in wanted if key in keys}
        if known and len(made) > 1:
            x, values = aligned(known)
            drawn.append((caption, chart(x, [line(key, of) for key, of in values.items()], unit="update")))
    return {**job_store.as_json(job), "made": made[-UPDATES:], "updates": len(made), "keys": keys, "charts": drawn}
