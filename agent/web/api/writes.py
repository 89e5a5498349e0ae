"""What a person may change through the API. Each is a function of `agent/changes/`, which writes down who, what and why.

Every request carries an `Idempotency-Key`: sent again under the same key it changes nothing more and gets the same answer. The token does
not say who holds it, so the body may: `by`, else the change is that of 'token'. Nothing here takes a path or names code.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Header
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from perdure.agent.changes import environment_use, job_orders, judgements, pauses, task_queue, version_moves
from perdure.agent.web.api.answer_keys import JobLine, JudgedAnswer, PauseAnswer, RetiredAnswer, TaskAnswer, VersionLine
from perdure.agent.web.api.answering import LARGEST, MISSING, EnvironmentName, Number, Problem, VersionName, answer, api_router
from perdure.agent.web.stores import AtHome
from perdure.memory.changes import MOST_NAME, MOST_REASON, Who

router = api_router("changes")

REFUSED: dict[int | str, dict[str, Any]] = {
    **MISSING,
    409: {"model": Problem, "description": "Another change came first, or the key stands for another request."},
    413: {"model": Problem, "description": "The body is too long."},
}
Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        pattern="^[!-~]{1,200}$",
        description="names this change, so that it is made once at most",
        examples=["0b6c6d2e-rollback"],
    ),
]
Reason = Annotated[str, Field(min_length=1, max_length=MOST_REASON, description="why; it is kept")]
Profile = Literal["economy", "standard", "strict"]
Targets = Annotated[list[EnvironmentName], Field(max_length=100, description="environments of the home, by their full names")]
MOST_TASKS = 1000
"""Of one request: the answer is kept with its key."""


class Asked(BaseModel):
    """The body of one request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    by: Annotated[str, Field(min_length=1, max_length=MOST_NAME)] = Field(default="token", description="who asks")
    reason: Reason | None = None

    @property
    def who(self) -> Who:
        return Who(name=self.by, via="api")


class WithReason(Asked):
    reason: Reason = Field()


class TasksAsked(Asked):
    environment: EnvironmentName
    seed: int | None = Field(default=None, ge=0, le=LARGEST, description="of the first; at random by default")
    count: int = Field(default=1, ge=1, le=MOST_TASKS)


class LearnAsked(Asked):
    learner: Annotated[str, Field(min_length=1, max_length=50, examples=["grpo"])]
    targets: Targets = Field(default_factory=list)
    options: Annotated[dict[str, bool | int | float | str], Field(max_length=200)] = Field(default_factory=dict)
    gate: bool = True
    start: VersionName | None = None
    profile: Profile | None = None


class GateAsked(Asked):
    candidate: VersionName
    targets: Targets = Field(default_factory=list)
    profile: Profile | None = None


class ProbeAsked(Asked):
    version: VersionName | None = None
    targets: Targets = Field(default_factory=list)
    episodes: int = Field(default=50, ge=1, le=100_000)
    temperature: float = Field(default=0.0, ge=0, le=10)
    samples: int = Field(default=1, ge=1, le=64)


class PanelAsked(Asked):
    version: VersionName | None = None
    scores: Literal["choice", "all"] = "choice"


class PauseAsked(WithReason):
    what: Literal["play", "learning"] | None = Field(default=None, description="both by default")


class ResumeAsked(Asked):
    what: Literal["play", "learning"] | None = Field(default=None, description="both by default")


class MoveAsked(WithReason):
    expected: VersionName | None = Field(default=None, description="the version that serves as far as you know; refused if it moved")


class RollbackAsked(WithReason):
    expected: VersionName = Field(description="the version that serves as far as you know: two who roll back at once go back one step")
    to: VersionName | None = Field(default=None, description="the version that served before, by default")


class PinAsked(WithReason):
    pinned: bool = True
    expected: VersionName | None = None


class JudgeAsked(WithReason):
    value: float
    source: Annotated[str, Field(min_length=1, max_length=judgements.MOST_SOURCE)]


class EnvironmentAsked(WithReason):
    environment: EnvironmentName


@router.post("/tasks", responses={200: {"model": list[TaskAnswer]}, **REFUSED})
def add_tasks(at: AtHome, key: Key, asked: TasksAsked) -> Response:
    """Queue tasks of an environment of the home; they are played before those of the stream."""
    with at.writing() as store:
        found = task_queue.add_tasks(
            store, at.loaded, asked.who, asked.environment, seed=asked.seed, count=asked.count, reason=asked.reason, key=key
        )
    return answer(found)


@router.post("/jobs/learn", responses={200: {"model": JobLine}, **REFUSED})
def learn(at: AtHome, key: Key, asked: LearnAsked) -> Response:
    """Queue a learning job. Without targets the planner chooses."""
    with at.writing() as store:
        found = job_orders.queue_learn(
            store,
            at.loaded,
            asked.who,
            asked.learner,
            targets=asked.targets,
            options=asked.options,
            gate=asked.gate,
            start=asked.start,
            profile=asked.profile,
            reason=asked.reason,
            key=key,
        )
    return answer(found)


@router.post("/jobs/gate", responses={200: {"model": JobLine}, **REFUSED})
def gate(at: AtHome, key: Key, asked: GateAsked) -> Response:
    """Queue a gate of a version. It never changes which version serves."""
    with at.writing() as store:
        found = job_orders.queue_gate(
            store, at.loaded, asked.who, asked.candidate, targets=asked.targets, profile=asked.profile, reason=asked.reason, key=key
        )
    return answer(found)


@router.post("/jobs/probe", responses={200: {"model": JobLine}, **REFUSED})
def probe(at: AtHome, key: Key, asked: ProbeAsked) -> Response:
    """Queue a probe of a version on held-out seeds."""
    with at.writing() as store:
        found = job_orders.queue_probe(
            store,
            at.loaded,
            asked.who,
            asked.version,
            targets=asked.targets,
            episodes=asked.episodes,
            temperature=asked.temperature,
            samples=asked.samples,
            reason=asked.reason,
            key=key,
        )
    return answer(found)


@router.post("/jobs/panel", responses={200: {"model": JobLine}, **REFUSED})
def panel(at: AtHome, key: Key, asked: PanelAsked) -> Response:
    """Queue the capability panel for a version."""
    with at.writing() as store:
        found = job_orders.queue_panel(store, asked.who, asked.version, asked=asked.scores, reason=asked.reason, key=key)
    return answer(found)


@router.post("/jobs/{number}/cancel", responses={200: {"model": JobLine}, **REFUSED})
def cancel(at: AtHome, number: Number, key: Key, asked: WithReason) -> Response:
    """Take a job back, whether it waits or runs."""
    with at.writing() as store:
        found = job_orders.cancel_job(store, asked.who, number, reason=asked.reason, key=key)
    return answer(found)


@router.post("/pause", responses={200: {"model": list[PauseAnswer]}, **REFUSED})
def pause(at: AtHome, key: Key, asked: PauseAsked) -> Response:
    """Stop play or learning without ending the daemon."""
    with at.writing() as store:
        found = pauses.pause(store, asked.who, asked.what, reason=asked.reason, key=key)
    return answer(found)


@router.post("/resume", responses={200: {"model": list[PauseAnswer]}, **REFUSED})
def resume(at: AtHome, key: Key, asked: ResumeAsked) -> Response:
    """Go on with what was paused."""
    with at.writing() as store:
        found = pauses.resume(store, asked.who, asked.what, reason=asked.reason, key=key)
    return answer(found)


@router.post("/versions/{name}/promote", responses={200: {"model": VersionLine}, **REFUSED})
def promote(at: AtHome, name: VersionName, key: Key, asked: MoveAsked) -> Response:
    """Let a version serve without a gate."""
    with at.writing() as store:
        found = version_moves.promote(store, asked.who, name, reason=asked.reason, expected=asked.expected, key=key)
    return answer(found)


@router.post("/versions/{name}/reject", responses={200: {"model": VersionLine}, **REFUSED})
def reject(at: AtHome, name: VersionName, key: Key, asked: MoveAsked) -> Response:
    """Reject a candidate: it never serves."""
    with at.writing() as store:
        found = version_moves.reject(store, asked.who, name, reason=asked.reason, expected=asked.expected, key=key)
    return answer(found)


@router.post("/versions/{name}/pin", responses={200: {"model": VersionLine}, **REFUSED})
def pin(at: AtHome, name: VersionName, key: Key, asked: PinAsked) -> Response:
    """Keep the files of a version, or with `pinned` false no longer."""
    with at.writing() as store:
        found = version_moves.pin(store, asked.who, name, asked.pinned, reason=asked.reason, expected=asked.expected, key=key)
    return answer(found)


@router.post("/rollback", responses={200: {"model": VersionLine}, **REFUSED})
def rollback(at: AtHome, key: Key, asked: RollbackAsked) -> Response:
    """Let an earlier version serve again."""
    with at.writing() as store:
        found = version_moves.rollback(store, asked.who, asked.to, reason=asked.reason, expected=asked.expected, key=key)
    return answer(found)


@router.post("/episodes/{number}/judge", responses={200: {"model": JudgedAnswer}, **REFUSED})
def judge(at: AtHome, number: Number, key: Key, asked: JudgeAsked) -> Response:
    """Reward an episode afterwards, under the name of a source; the environment's own reward stays."""
    with at.writing() as store:
        found = judgements.judge(store, asked.who, {number: asked.value}, source=asked.source, reason=asked.reason, key=key)
    return answer(found)


@router.post("/environments/retire", responses={200: {"model": RetiredAnswer}, **REFUSED})
def retire(at: AtHome, key: Key, asked: EnvironmentAsked) -> Response:
    """Take an environment of the home out of play, replay and gate."""
    with at.writing() as store:
        found = environment_use.retire(store, asked.who, asked.environment, reason=asked.reason, key=key)
    return answer(found)


@router.post("/environments/restore", responses={200: {"model": RetiredAnswer}, **REFUSED})
def restore(at: AtHome, key: Key, asked: EnvironmentAsked) -> Response:
    """Bring a retired environment back."""
    with at.writing() as store:
        found = environment_use.restore(store, asked.who, asked.environment, reason=asked.reason, key=key)
    return answer(found)
