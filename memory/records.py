"""The nouns: the rows of the store as frozen records.

Every word here means what `docs/architecture.md` says it means; tables and commands use the same words.
Rows become these records at the edge of `memory/`, so that no other folder sees a raw row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

TaskState = Literal["queued", "leased", "done", "failed"]
EpisodeState = Literal["running", "completed", "aborted", "env_error"]
Purpose = Literal["live", "learn", "hinted", "replay", "gate", "probe"]
"""What an episode is played for. `hinted` is played to learn from, like `learn`, but with the right answer in the prompt."""
VersionState = Literal["candidate", "serving", "retired", "rejected"]
Decision = Literal["promote", "reject", "inconclusive"]
Role = Literal["earlier", "trained"]
"""Whose pairs a comparison uses: `trained` those against the serving version, `earlier` those against an anchor."""
StageOrder = Literal["interleaved", "shuffled", "sequential", "permuted"]
"""How the environments of a stage of the stream follow each other."""
StopReason = Literal["terminated", "truncated", "turn_limit", "context_limit", "interrupted", "error"]


@dataclass(frozen=True, slots=True)
class VersionRef:
    """A version sampled it: the base model plus one immutable adapter, by its never-reused name."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class StepRef:
    """A step sampled it: the policy inside learning job `job` after its `n`-th update. It never serves."""

    job: int
    n: int

    def __str__(self) -> str:
        return f"job {self.job} step {self.n}"


Sampler = VersionRef | StepRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to write about one piece of work. Every write checks owner and attempt, so that a lost lease cannot write."""

    subject: int
    owner: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to attempt: an environment and a seed."""

    id: int
    environment: str
    seed: int
    state: TaskState
    members: int
    """How many episodes of it are played and compared with each other (the group size G)."""
    attempt: int
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One exchange with the environment, exactly as it was sampled."""

    prompt_ids: tuple[int, ...]
    """The whole prompt of this turn: everything the policy saw."""
    action_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Natural log, one per action token, under the sampler at the sampling temperature."""
    observation: str
    action: str
    reward: float
    sampler: Sampler
    finish: Literal["stop", "length"]
    """Whether the policy ended its answer itself, or ran into the token limit."""
    invalid: str | None = None
    """Why the answer was not a valid action, if the environment said so."""
    shared: int = field(default=0, compare=False)
    """How many of the first tokens are the prompt and the answer of the turn before; they are stored once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One attempt at a task."""

    id: int
    environment: str
    seed: int
    group: str
    """Episodes of one group are attempts at the same task under the same policy; they are compared with each other."""
    member: int
    purpose: Purpose
    state: EpisodeState
    turns: tuple[Turn, ...]
    total_reward: float
    """The return: the undiscounted sum of rewards."""
    success: bool
    score: float
    """In [0, 1], compared by probes and gates: success if the environment states it, else the return mapped by its range."""
    stop_reason: StopReason | None
    temperature: float
    task: int | None = None
    job: int | None = None
    error: str | None = None
    seat: int = 0
    """In a game with several players: 0 is the seat that counts; the others play against it and are never scored."""
    code: str | None = None
    """What the code of the environment was (`envs/source_code.py`); None: not known."""
    instructions: str | None = None
    """The system message of its task; None: that of the environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodePlan:
    """An episode about to be played: enough to write its row before its first turn."""

    environment: str
    seed: int
    group: str
    member: int
    purpose: Purpose
    sampler: Sampler
    temperature: float
    lease: Lease
    """Of the task (`live`) or of the job (every other purpose) under which it is played."""
    seat: int = 0
    code: str | None = None
    """What the code of the environment is, as it is loaded; None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an episode ended."""

    episode: int
    state: Literal["completed", "aborted", "env_error"]
    stop_reason: StopReason
    total_reward: float
    success: bool
    score: float
    error: str | None = None
    instructions: str | None = None
    """The system message of its task, if the environment gave it one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """Base model and one immutable adapter. The initial version has no adapter folder."""

    name: str
    parent: str | None
    state: VersionState
    hash: str
    """sha256 over the manifest of the adapter's files and the base model's hash."""
    path: str | None
    """The adapter folder, relative to the home; None for the base model itself."""
    targets: tuple[str, ...]
    """The environments it was trained to be better at."""
    job: int | None
    pinned: bool
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Candidate and reference on one probe seed. `difference` is candidate minus reference, in [-1, 1]."""

    environment: str
    role: Role
    draw: int
    """r of seed = H(root, gate, environment, r)."""
    seed: int
    reference: str
    """The version compared with: the serving version if the role is `trained`, else the environment's anchor."""
    reference_score: float | None
    """None if the environment failed on the reference's side: the pair is void."""
    candidate_score: float | None
    """None if the candidate's side failed: it counts as a difference of -1."""
    difference: float | None


def score_of_return(total_reward: float, low: float, high: float) -> float:
    """A return as a score in [0, 1], by the range that its environment states; a return outside of it counts as the nearer end."""
    return min(1.0, max(0.0, (total_reward - low) / (high - low)))
