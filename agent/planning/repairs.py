"""Which environments stand below their anchors, and a repair of them: one job whose targets they all are.

The difference from an anchor is the mean of the stored pairs: an estimate, not a test. What chance put below its anchor is trained once
more, which costs little, while what is left out sinks further: with means shrunk by ten pairs of no difference, simulated lives in which
every job loses 3 points elsewhere had 18 promotions instead of 26. The gate decides on the
candidate of a repair as on any other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from perdure.agent.planning.life_so_far import LifeSoFar, Standing, since_promotion, standing_of
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.contracts.results import GateResult

REPAIR_FROM = 0.03
"""An environment that is more than this below its anchor, in points of score, is repaired."""

COLLAPSE = 0.2
"""A candidate that lost more than this in one environment, and more than it won, is no start of a repair: it would cost more than another
candidate. Many small losses are what a repair is for (docs/measurements.md)."""

MOST_REPAIRS = 2
"""After this many repairs without a promotion, environments that cannot be held together are left as they are."""


def shortfall(standing: Standing) -> float:
    """How far a version is below the anchor, in points of score: at least 0."""
    return max(0.0, -standing.difference)


def below_anchors(standings: Mapping[str, Standing | None]) -> dict[str, float]:
    """The environments that are clearly enough below their anchors, with their shortfall."""
    short = {name: shortfall(standing) for name, standing in standings.items() if standing is not None}
    return {name: points for name, points in short.items() if points > REPAIR_FROM}


def serving_below(life: LifeSoFar) -> dict[str, float]:
    """The environments in which the serving version is below the anchor."""
    return below_anchors({environment.name: environment.standing for environment in life.environments})


def candidate_below(result: GateResult, known: Collection[str]) -> dict[str, float]:
    """The environments in which a gated candidate is below its references, of those that the home knows."""
    return below_anchors({name: standing_of(leg) for name, leg in result.evidence.environments.items() if name in known})


def gained(result: GateResult) -> float:
    """How much a gated candidate won in its targets, in points of score."""
    standings = [standing_of(leg) for leg in result.evidence.trained.values()]
    return sum(max(0.0, standing.difference) for standing in standings if standing is not None)


def collapsed(result: GateResult, lost: Mapping[str, float]) -> bool:
    """Whether a candidate that lost this lost too much in one place to start a repair from it."""
    return max(lost.values(), default=0.0) > max(COLLAPSE, gained(result))


def repairs_without_promotion(life: LifeSoFar, targets: Collection[str]) -> int:
    """How many repairs of any of these targets have ended since the last promotion."""
    return sum(
        isinstance(job.order, LearnOrder) and job.order.aim == "repair" and not set(targets).isdisjoint(job.targets)
        for job in since_promotion(life)
    )


def in_points(short: Mapping[str, float]) -> str:
    """'door-code (24 points), add (5)', the largest first."""
    names = sorted(short, key=lambda name: -short[name])
    return ", ".join(f"{name} ({100 * short[name]:.0f}{' points' if n == 0 else ''})" for n, name in enumerate(names))
