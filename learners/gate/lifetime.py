"""The error of many gates: what a home's life may state, and e-LOND, which bounds it. Pure code.

A gate promotes falsely with a probability of at most its alpha. Over a life these add up: the expected number of false promotions is at
most the sum of the alphas. A candidate that is gated again continues its wealth, so it counts once.

With `gate.over_time = "e-lond"` alpha shrinks from candidate to candidate, so that of all promotions of a life at most a share of
`gate.alpha` is expected to be false (false discovery rate), whatever the dependence between gates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

from perdure.learners.gate.intervals import mean_interval
from perdure.memory.contracts.results import GateResult

GAMMA_POWER = 1.6
GAMMA_SUM = 2.2857657
"""The sum of t^-1.6 over all t from 1."""


def e_lond_alpha(alpha: float, test: int, promotions: int) -> float:
    """Alpha of the candidate number t = `test`, from 1: alpha gamma_t (promotions + 1), with gamma_t = t^-1.6 / 2.2858.

    `promotions` counts those before it; the gammas add up to 1 (Xu & Ramdas, 'Online multiple testing with e-values', 2024: e-LOND). A
    candidate that is gated again keeps the alpha of its first gate. Raises `ValueError` if the counts are impossible.
    """
    if test < 1 or not 0 <= promotions < test:
        raise ValueError(f"candidate {test} after {promotions} promotions: candidates count from 1, with fewer promotions before them")
    gamma = exp(-GAMMA_POWER * log(test)) / GAMMA_SUM
    return alpha * gamma * (promotions + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeStatement:
    """What the gates of a home have let through so far."""

    gates: int
    candidates: int
    promotions: int
    expected_false: float
    """False promotions, at most: the sum of alpha over the candidates."""
    drift: float | None
    """Mean difference of the serving version from the anchors, over the environments; None if it was never compared with them."""
    drift_interval: tuple[float, float] | None
    """Time-uniform, 95 %."""
    environments: int
    """Those in the mean."""

    def text(self) -> str:
        counts = f"{self.gates} gates of {self.candidates} candidates, {self.promotions} promotions"
        errors = f"at most {self.expected_false:.2f} false promotions expected"
        if self.drift is None or self.drift_interval is None:
            return f"{counts}; {errors}; the serving version was not compared with the anchors"
        low, high = self.drift_interval
        drift = f"{self.drift:+.3f} ({low:+.3f} to {high:+.3f}) in the mean of {self.environments} environments"
        return f"{counts}; {errors}; the serving version against the anchors: {drift}"


def life_statement(
    results: Sequence[GateResult], *, differences: Mapping[str, Sequence[float]], own: Collection[str] = ()
) -> LifeStatement:
    """The statement from all closed gates that could have promoted.

    `differences` has those of the serving version from its present anchor, by environment, in the order in which they were played; an
    environment in `own` has the serving version itself as its anchor, so that its difference is 0. Only whole rounds count, with one
    difference of each environment, so as many as the environment with the fewest has.
    """
    alphas = {result.candidate: result.alpha for result in reversed(results)}  # of its first gate, if there are several
    compared = {name: values for name, values in differences.items() if values and name not in own}
    environments = len(compared) + len(own)
    drift, interval = (0.0, (0.0, 0.0)) if own else (None, None)
    if compared:
        rounds = list(zip(*compared.values(), strict=False))
        share = len(compared) / environments
        low, high = mean_interval(rounds, low=-1.0, high=1.0)
        drift = share * sum(map(sum, rounds)) / (len(rounds) * len(compared))
        interval = share * low, share * high
    return LifeStatement(
        gates=len(results),
        candidates=len(alphas),
        promotions=sum(result.verdict == "promote" for result in results),
        expected_false=sum(alphas.values()),
        drift=drift,
        drift_interval=interval,
        environments=environments,
    )
