"""What the forms of all pages do: each is one change of a person, written down with who made it and why (`agent/changes/`).

Every form carries the mark of its session and a key; the answer is the way to a page of ours, which says once what was done. What cannot be
done is said on a page of its own, and nothing is changed. Left out: signing in and out (`signing_in.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from perdure.agent.changes import environment_use, job_orders, judgements, pauses, task_queue, version_moves
from perdure.agent.show.terminal import visible
from perdure.agent.web.pages.forms import OwnForm, done, who
from perdure.agent.web.stores import AtHome
from perdure.memory.changes import KEY, MOST_REASON

router = APIRouter(include_in_schema=False, prefix="/act", dependencies=[OwnForm])

MOST_TASKS = 1000
"""Tasks that one form adds: the answer is kept with its key."""

Key = Annotated[str, Form(pattern=f"^{KEY.pattern}$")]
Reason = Annotated[str, Form(min_length=1, max_length=MOST_REASON)]
MaybeReason = Annotated[str, Form(max_length=MOST_REASON)]
Name = Annotated[str, Form(min_length=1, max_length=2000)]
Number = Annotated[int, Form(ge=1, le=2**53)]
Serving = Annotated[str, Form(max_length=200)]
"""The version that the page showed as serving; empty if it showed none."""


@router.post("/pause")
def pause(request: Request, at: AtHome, key: Key, reason: Reason, what: Annotated[Literal["play", "learning"], Form()]) -> Response:
    with at.writing() as store:
        pauses.pause(store, who(request), what, reason=reason, key=key)
    return done(request, "/", f"{what.capitalize()} is paused: {reason}")


@router.post("/resume")
def resume(
    request: Request, at: AtHome, key: Key, what: Annotated[Literal["play", "learning"], Form()], reason: MaybeReason = ""
) -> Response:
    with at.writing() as store:
        pauses.resume(store, who(request), what, reason=reason or None, key=key)
    return done(request, "/", f"{what.capitalize()} goes on.")


@router.post("/jobs/cancel")
def cancel_job(request: Request, at: AtHome, key: Key, reason: Reason, job: Number) -> Response:
    with at.writing() as store:
        job_orders.cancel_job(store, who(request), job, reason=reason, key=key)
    return done(request, "/", f"Job {job} is cancelled: {reason}")


@router.post("/jobs/gate")
def queue_gate(request: Request, at: AtHome, key: Key, candidate: Name, reason: MaybeReason = "") -> Response:
    with at.writing() as store:
        job = job_orders.queue_gate(store, at.loaded, who(request), candidate, reason=reason or None, key=key)
    return done(request, _version(candidate), f"Job {job['id']} waits: it gates {candidate}, and moves nothing by itself.")


@router.post("/jobs/probe")
def queue_probe(request: Request, at: AtHome, key: Key, version: Name, reason: MaybeReason = "") -> Response:
    with at.writing() as store:
        job = job_orders.queue_probe(store, at.loaded, who(request), version, reason=reason or None, key=key)
    return done(request, _version(version), f"Job {job['id']} waits: it probes {version}.")


@router.post("/jobs/learn")
def queue_learn(
    request: Request, at: AtHome, key: Key, learner: Name, target: Annotated[str, Form(max_length=2000)] = "", reason: MaybeReason = ""
) -> Response:
    targets = [target] if target else []
    with at.writing() as store:
        job = job_orders.queue_learn(store, at.loaded, who(request), learner, targets=targets, reason=reason or None, key=key)
    return done(request, "/learning", f"Job {job['id']} waits: {learner} on {', '.join(job['targets'])}.")


@router.post("/tasks")
def add_tasks(
    request: Request,
    at: AtHome,
    key: Key,
    environment: Name,
    count: Annotated[int, Form(ge=1, le=MOST_TASKS)] = 1,
    seed: Annotated[str, Form(pattern="^[0-9]{0,12}$")] = "",
    reason: MaybeReason = "",
) -> Response:
    first = int(seed) if seed else None
    with at.writing() as store:
        added = task_queue.add_tasks(store, at.loaded, who(request), environment, seed=first, count=count, reason=reason or None, key=key)
    return done(request, "/tasks", f"{len(added)} {'task' if len(added) == 1 else 'tasks'} of {visible(environment)} will be played next.")


@router.post("/environments/retire")
def retire(request: Request, at: AtHome, key: Key, reason: Reason, environment: Name) -> Response:
    with at.writing() as store:
        retired = environment_use.retire(store, who(request), environment, reason=reason, key=key)
    jobs = "".join(f" Job {number} still has it as a target." for number in retired["jobs"])
    failed = f" {retired['tasks_failed']} of its tasks waited, and are not played." if retired["tasks_failed"] else ""
    return done(request, "/environments", f"{visible(environment)} is retired.{failed}{jobs}")


@router.post("/environments/restore")
def restore(request: Request, at: AtHome, key: Key, reason: Reason, environment: Name) -> Response:
    with at.writing() as store:
        environment_use.restore(store, who(request), environment, reason=reason, key=key)
    return done(request, "/environments", f"{visible(environment)} is back in play, replay and gate.")


@router.post("/versions/promote")
def promote(request: Request, at: AtHome, key: Key, reason: Reason, version: Name, expected: Serving = "") -> Response:
    with at.writing() as store:
        version_moves.promote(store, who(request), version, reason=reason, expected=expected or None, key=key)
    return done(request, _version(version), f"{version} serves now: {reason}")


@router.post("/versions/reject")
def reject(request: Request, at: AtHome, key: Key, reason: Reason, version: Name, expected: Serving = "") -> Response:
    with at.writing() as store:
        version_moves.reject(store, who(request), version, reason=reason, expected=expected or None, key=key)
    return done(request, _version(version), f"{version} is rejected: {reason}")


@router.post("/versions/rollback")
def rollback(
    request: Request, at: AtHome, key: Key, reason: Reason, version: Annotated[str, Form(max_length=200)] = "", expected: Serving = ""
) -> Response:
    with at.writing() as store:
        now = version_moves.rollback(store, who(request), version or None, reason=reason, expected=expected or None, key=key)
    return done(request, "/versions", f"Rolled back: {now['name']} serves again. {reason}")


@router.post("/versions/pin")
def pin(request: Request, at: AtHome, key: Key, reason: Reason, version: Name, pinned: Annotated[bool, Form()] = True) -> Response:
    with at.writing() as store:
        version_moves.pin(store, who(request), version, pinned, reason=reason, key=key)
    return done(request, _version(version), f"The files of {version} are kept." if pinned else f"{version} is no longer pinned.")


@router.post("/episodes/judge")
def judge(
    request: Request,
    at: AtHome,
    key: Key,
    episode: Number,
    reward: Annotated[float, Form(allow_inf_nan=False)],
    source: Annotated[str, Form(min_length=1, max_length=200)],
    reason: Reason,
) -> Response:
    with at.writing() as store:
        judgements.judge(store, who(request), {episode: reward}, source=source, reason=reason, key=key)
    return done(request, f"/episodes/{episode}", f"Episode {episode} has the reward {reward:g} of {visible(source)}.")


def _version(name: str) -> str:
    return f"/versions/{quote(name, safe='')}"
