"""What jobs are to do, and the job itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from perdure.memory.contracts.panel_results import Asked
from perdure.memory.contracts.results import GateResult, LearnResult, Result
from perdure.memory.records import Decision

JobKind = Literal["learn", "gate", "probe"]
JobState = Literal["queued", "leased", "running", "gating", "done", "failed"]
OptionValue = str | int | float | bool
Consequence = Literal["nothing", "promotion", "rollback"]
"""Of a gate by itself, if its verdict is promote. A rollback makes the candidate, which served before, serve again."""

CANCELLED = "cancelled: "
"""How the error of a job begins that a person took back."""
NOTHING_TO_LEARN = "nothing to learn from"
"""How the error of a learning job begins whose episodes teach nothing."""
Aim = Literal["gain", "continuation", "repair", "first success"]
"""What a learning job is for: a gain in its targets; the same from a candidate whose gain was not shown yet; to win back what fell below
its anchors; or a first success, where the agent never succeeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnOrder:
    """What a learning job is to do."""

    learner: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    """Of the learner, as `learners/options.py` reads them."""
    gate: bool = True
    """Whether the candidate is gated."""
    profile: str | None = None
    """Of the gate; None takes that of the configuration."""
    start: str | None = None
    """The version to train from; None takes the serving one."""
    why: str | None = None
    """In one sentence, if the planner asked for it; None if a person did."""
    aim: Aim = "gain"
    follows: int | None = None
    """The job whose verdict it follows, if it follows one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateOrder:
    """Which version is to be gated."""

    candidate: str
    profile: str | None = None
    leads_to: Consequence = "nothing"
    why: str | None = None
    follows: int | None = None
    """Both as in `LearnOrder`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOrder:
    """Which version is to be scored on held-out seeds."""

    version: str | None = None
    """None takes the serving one."""
    episodes: int = 50
    """Of each environment."""
    temperature: float = 0.0
    """At which answers are sampled; 0 is greedy."""
    samples: int = 1
    """Answers to each seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelOrder:
    """Which version is to be scored on the capability panel, beside the base model and the version that served before it."""

    version: str | None = None
    """None takes the serving one."""
    asked: Asked = "choice"


Order = LearnOrder | GateOrder | ProbeOrder | PanelOrder


def kind_of(order: Order) -> JobKind:
    match order:
        case LearnOrder():
            return "learn"
        case GateOrder():
            return "gate"
        case ProbeOrder() | PanelOrder():
            return "probe"


def learner_of(order: Order) -> str | None:
    """The learner of a learning job; None for the others."""
    return order.learner if isinstance(order, LearnOrder) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of a learner or of a set of probes."""

    id: int
    order: Order
    targets: tuple[str, ...]
    state: JobState
    attempt: int
    candidate: str | None
    result: Result | None
    """None until the job is done."""
    error: str | None
    created: float

    @property
    def kind(self) -> JobKind:
        return kind_of(self.order)

    @property
    def learner(self) -> str | None:
        return learner_of(self.order)

    @property
    def gate(self) -> GateResult | None:
        """What the gate of this job came to; None if it had none or did not get there."""
        match self.result:
            case LearnResult(gate=gate):
                return gate
            case GateResult():
                return self.result
        return None

    @property
    def found_nothing(self) -> bool:
        """Whether it failed because its episodes teach nothing: no fault of a program, and a reason to learn something else."""
        return self.state == "failed" and (self.error or "").startswith(NOTHING_TO_LEARN)

    @property
    def cancelled(self) -> bool:
        """Whether a person took it back."""
        return self.state == "failed" and (self.error or "").startswith(CANCELLED)

    @property
    def verdict(self) -> Decision | None:
        return self.gate.verdict if self.gate else None
