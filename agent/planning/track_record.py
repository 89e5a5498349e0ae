"""What learning jobs on an environment have brought over the home's life, and what they cost.

With each learning job on an environment the numbers of its promotions and of its other verdicts fade, so that what is new counts most. A
promotion of another environment forgets nothing. A job that failed, as one that found nothing to learn from, counts as another verdict, and
so does a promotion that was rolled back; a verdict with the gain shown, though something else did not hold, counts as half of one. A repair
that follows a verdict and is refused counts for the old target only: the others were in it because they had fallen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median

from perdure.agent.planning.life_so_far import LifeSoFar, final_verdicts, root_of
from perdure.learners.gate.promotion import gain_shown, improved, lost_on_panel
from perdure.memory.contracts.orders import Job, LearnOrder
from perdure.memory.contracts.results import GateResult, LearnResult
from perdure.memory.jobs import ENDED

FADES = 0.8
"""What one more job leaves of the numbers before it."""
FADES_WHILE_IDLE = 0.97
"""What a look that finds nothing to learn leaves of the refusals: what was set aside is tried again some time."""
SET_ASIDE_FROM = 3.2
"""About five refusals in a row: .8 + .8^2 + ... gives 1, 1.8, 2.44, 2.95, 3.36."""
BARELY_PROMOTED = 0.3
"""A target with more than this of a promotion, as it has for five jobs after one, is not set aside."""
GAINED = 0.5
"""What a verdict counts as if the gain was shown and something else did not hold, or if only the panel was asked: it says little against
the target."""
COST_LIMITS = (0.25, 4.0)
"""Of a cost relative to the median, so that one odd job decides nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRecord:
    """The faded numbers of one environment."""

    promotions: float = 0.0
    refusals: float = 0.0

    @property
    def hope(self) -> float:
        """The square of the expected share of promotions, from a uniform prior (Laplace's rule of succession)."""
        return ((self.promotions + 1) / (self.promotions + self.refusals + 2)) ** 2

    @property
    def set_aside(self) -> bool:
        """Whether the environment is no target for now."""
        return self.refusals >= SET_ASIDE_FROM and self.promotions <= BARELY_PROMOTED


def track_records(life: LifeSoFar) -> dict[str, TrackRecord]:
    """By environment that a learning job ever had as a target."""
    verdicts = final_verdicts(life.jobs)
    numbers: dict[str, tuple[float, float]] = {}
    for job in reversed(life.jobs):
        if not isinstance(job.order, LearnOrder) or job.state not in ENDED:
            continue
        result = verdicts.get(job.candidate) if job.candidate is not None else None
        if result is None and job.state != "failed":
            continue  # it was not gated
        promoted = () if job.candidate in life.rolled_back else _promoted(job, result)
        refused = () if promoted else root_of(job, life).targets
        says_little = result is not None and (gain_shown(result) or lost_on_panel(result)) and job.candidate not in life.rolled_back
        refusal = GAINED if says_little else 1.0
        for name in job.targets:
            if name in promoted or name in refused:
                a, b = (FADES * number for number in numbers.get(name, (0.0, 0.0)))
                numbers[name] = (a + 1, b) if name in promoted else (a, b + refusal)
    faded = FADES_WHILE_IDLE**life.fruitless
    return {name: TrackRecord(promotions=a, refusals=b * faded) for name, (a, b) in numbers.items()}


def relative_costs(life: LifeSoFar) -> dict[str, float]:
    """The mean seconds of the learning jobs on an environment, gate included, relative to the median over environments.

    A job with several targets is shared between them. Environments without a job that ended have none.
    """
    seconds: dict[str, list[float]] = {}
    for job in life.jobs:
        if isinstance(job.result, LearnResult):
            for name in job.targets:
                seconds.setdefault(name, []).append((job.result.learn_s + job.result.gate_s) / len(job.targets))
    means = {name: fmean(values) for name, values in seconds.items()}
    middle = median(means.values()) if means else 0.0
    low, high = COST_LIMITS
    return {name: min(high, max(low, mean / middle)) if middle else 1.0 for name, mean in means.items()}


def _promoted(job: Job, result: GateResult | None) -> Iterable[str]:
    """The targets that a promotion counts for: those whose own gain was shown, or all if none was by itself."""
    if result is None or result.verdict != "promote":
        return ()
    return [name for name in improved(result.evidence) if name in job.targets] or job.targets
