"""What the planner knows of a home's life: the environments as they stand now, and the jobs so far. Records only.

The order of jobs is that of their numbers: the planner never asks a clock, so that one that jumps changes nothing.
Left out: reading them from a store (`life_from_store.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from perdure.memory.contracts.orders import GateOrder, Job, LearnOrder
from perdure.memory.contracts.panel_results import PanelResult
from perdure.memory.contracts.results import GateResult, Leg
from perdure.memory.jobs import ENDED
from perdure.memory.trajectories.episodes import RateRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A version against the anchor of an environment, over stored pairs."""

    difference: float
    """Mean of version - anchor, in points of score from -1 to 1."""
    pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentNow:
    """An environment that the home knows, as it stands now."""

    name: str
    streamed: bool = True
    """Whether tasks of it are on the stream now or will be; only then is it an ordinary target."""
    rates: tuple[RateRow, ...] = ()
    """Live play of the versions that led to the serving one, the oldest first, the serving one's last."""
    chance: float | None = None
    """The share of tasks that a constant or a random answer solves; None: not known, so success counts as skill."""
    oracle: bool | None = None
    """Whether it can answer its own tasks; None: not known, so it is tried."""
    traces: str | None = None
    """The label of an import that has successes of it."""
    standing: Standing | None = None
    """Of the serving version; None if it is the anchor itself, or was never compared with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeSoFar:
    """All that the planner decides by."""

    serving: str
    environments: tuple[EnvironmentNow, ...]
    """All that the home knows, in the order of registration."""
    jobs: tuple[Job, ...]
    """The newest first."""
    usable: frozenset[str] = frozenset()
    """The versions that can be trained from or gated: their files are there, and nothing that they were made from was rolled back."""
    rolled_back: frozenset[str] = frozenset()
    """The versions that served and were rolled back: their promotion brought nothing."""
    panel: PanelResult | None = None
    """The serving version on the capability panel beside the base model; None if it was never scored, or the last gate left it out."""
    fruitless: int = 0
    """Looks in a row, since a job was queued, that found nothing to learn."""


def standing_of(leg: Leg) -> Standing | None:
    """What one comparison of a gate says about a version and its reference; None if it was not played."""
    return None if leg.mean_difference is None or not leg.n else Standing(difference=leg.mean_difference, pairs=leg.n)


def may_promote(job: Job) -> bool:
    """Whether the verdict of this job changes which version serves if it is promote."""
    return isinstance(job.order, LearnOrder) or (isinstance(job.order, GateOrder) and job.order.leads_to == "promotion")


def since_promotion(life: LifeSoFar) -> Iterator[Job]:
    """The jobs that have ended since the last promotion by a verdict, the newest first."""
    for job in life.jobs:
        if may_promote(job) and job.verdict == "promote":
            return
        if job.state in ENDED:
            yield job


def final_verdicts(jobs: tuple[Job, ...]) -> dict[str, GateResult]:
    """The last verdict on each candidate, of the gates that may promote."""
    found: dict[str, GateResult] = {}
    for job in jobs:
        if job.gate is not None and job.candidate is not None and may_promote(job):
            found.setdefault(job.candidate, job.gate)
    return found


def root_of(job: Job, life: LifeSoFar) -> Job:
    """The first job of the chain in which each follows the verdict of the one before."""
    while (before := followed_by(job, life)) is not None:
        job = before
    return job


def followed_by(job: Job, life: LifeSoFar) -> Job | None:
    """The job whose verdict this one follows; None if it follows none, or one that is no longer known."""
    match job.order:
        case LearnOrder(follows=number) | GateOrder(follows=number) if number is not None and number < job.id:
            return next((before for before in life.jobs if before.id == number), None)
    return None
