"""The keys of the documents that the API answers with, for its description. Documents are made elsewhere, and may have more keys.

Nothing is checked against these models at run time: a test does it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from perdure.memory.contracts.orders import JobKind, JobState
from perdure.memory.records import Decision, EpisodeState, Purpose, Role, StopReason, TaskState, VersionState


class Answered(BaseModel):
    model_config = ConfigDict(extra="allow")


class SettingAnswer(Answered):
    key: str
    value: Any
    origin: str
    description: str


class TaskAnswer(Answered):
    id: int
    environment: str
    seed: int
    state: TaskState
    members: int
    attempt: int
    error: str | None
    source: Literal["stream", "person"]
    stage: str | None
    episodes: list[int]
    created: str


class EpisodeLine(Answered):
    id: int
    environment: str
    seed: int
    purpose: Purpose
    state: EpisodeState
    success: bool
    total_reward: float
    turns: int
    stop_reason: StopReason | None
    sampler: str
    task: int | None
    job: int | None
    seat: int
    started: str


class TurnAnswer(Answered):
    n: int
    observation: str
    action: str
    reward: float | None
    sampler: str
    finish: Literal["stop", "length"]
    invalid: str | None
    prompt_ids: list[int]
    action_ids: list[int]
    logprobs: list[float | None]


class EpisodeAnswer(Answered):
    id: int
    environment: str
    seed: int
    group: str
    member: int
    seat: int
    purpose: Purpose
    state: EpisodeState
    success: bool
    score: float
    total_reward: float
    rewards: dict[str, float] = Field(description="of persons and programs, by source")
    stop_reason: StopReason | None
    temperature: float
    task: int | None
    job: int | None
    error: str | None
    turns: list[TurnAnswer]


class VersionLine(Answered):
    name: str
    state: VersionState
    parent: str | None
    created: str
    hash: str
    targets: list[str]
    job: int | None
    pinned: bool


class MoveAnswer(Answered):
    kind: Literal["initial", "promote", "rollback"]
    from_: str | None = Field(alias="from")
    to: str
    gate: int | None
    reason: str
    moved: str


class GateLine(Answered):
    gate: int
    candidate: str
    serving: str
    profile: str
    verdict: Decision | None
    reason: str | None
    evidence: dict[str, Any] | None
    finished: str | None


class GateAnswer(GateLine):
    job: int
    most_rounds: int
    pairs: int


class VersionAnswer(VersionLine):
    on_disk: bool
    gates: list[GateLine]
    moves: list[MoveAnswer]


class PairAnswer(Answered):
    gate: int
    environment: str
    role: Role
    draw: int
    seed: int
    reference: str
    candidate: str
    reference_score: float | None
    candidate_score: float | None
    difference: float | None
    counts: bool


class JobLine(Answered):
    id: int
    kind: JobKind
    learner: str | None
    targets: list[str]
    options: dict[str, Any]
    state: JobState
    attempt: int
    candidate: str | None
    result: dict[str, Any] | None
    error: str | None
    created: str


class JobAnswer(JobLine):
    updates: int
    spoilt_episodes: int


class EnvironmentAnswer(Answered):
    name: str
    threshold: float
    reward_low: float
    reward_high: float
    critical: bool
    anchor: str | None
    retired: str | None
    code: str | None
    changed: str | None


class EventAnswer(Answered):
    id: int
    kind: str
    subject: str
    message: str
    happened: str


class PauseAnswer(Answered):
    what: Literal["play", "learning"]
    reason: str
    paused: str


class ChangeAnswer(Answered):
    id: int
    made: str
    who: str
    via: Literal["command", "api", "page"]
    what: str
    subject: str
    reason: str | None
    arguments: dict[str, Any]
    key: str | None


class StudyAnswer(Answered):
    name: str
    about: str
    done: int
    failed: int
    folder: str
    error: str | None


class StatusAnswer(Answered):
    state: str
    serving: str | None
    idle_reason: str | None
    tasks: dict[str, int]
    episodes: int
    turns: int
    jobs: dict[str, int]
    last_verdict: dict[str, Any] | None
    uptime_s: float | None
    healthy: bool
    troubles: list[str]
    pauses: list[PauseAnswer]


class JudgedAnswer(Answered):
    source: str
    episodes: list[int]


class RetiredAnswer(Answered):
    name: str
    retired: bool
