"""The next step of a life: a learning job, a gate, or nothing with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from perdure.agent.planning.panel_care import NO_CARE, PanelCare
from perdure.memory.contracts.orders import Aim, OptionValue


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnNext:
    """Queue a learning job."""

    targets: tuple[str, ...]
    why: str
    """In one sentence."""
    aim: Aim = "gain"
    learner: str | None = None
    """None: the one that the home is configured with."""
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    """Those that differ from the home's."""
    start: str | None = None
    """The version to train from; None: the serving one."""
    follows: int | None = None
    """The job whose verdict this follows."""
    unfollowed: str | None = None
    """Why nothing follows the last verdict, if nothing does."""
    care: PanelCare = NO_CARE
    """What the capability panel asks of the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateNext:
    """Queue a gate of a candidate that was gated before; its stored wealth goes on."""

    candidate: str
    targets: tuple[str, ...]
    follows: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingNext:
    """There is nothing to learn."""

    why: str
    unfollowed: str | None = None


NextStep = LearnNext | GateNext | NothingNext


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfollowed:
    """A verdict without promotion that nothing follows."""

    job: int
    why: str
