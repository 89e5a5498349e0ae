"""How sure a mean is: intervals over seeds (Student's t, from ten seeds on the bootstrap) and over the items of one run; tests of claims.

The unit is what was drawn independently: the seed. Arms are compared seed by seed. Within one run only items are left as a unit; such an
interval says how well this run was measured, and nothing about another run. For scores that were collected until they sufficed, as in a
gate, use `learners/gate/intervals.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, sqrt
from statistics import NormalDist, fmean, stdev, variance
from typing import Literal, TypeVar

from perdure.memory.json_value import Document

LEVEL = 0.95
BOOTSTRAP_FROM = 10
"""Values. With fewer, resampling them says too little."""
RESAMPLES = 10_000
RESAMPLE_SEED = 18
MOST_SEEDS = 10_000

Unit = Literal["seeds", "items"]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanEstimate:
    """A mean with a 95 % interval."""

    value: float
    low: float | None
    """None, like `high`, if one value is all there is."""
    high: float | None
    n: int
    """How many of `of`."""
    of: Unit = "seeds"
    method: Literal["t", "bootstrap", "none"] = "none"

    def as_json(self) -> Document:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n, "of": self.of, "method": self.method}


def estimate(values: Sequence[float], level: float = LEVEL) -> MeanEstimate:
    """The mean over seeds. Raises `ValueError` without values."""
    mean, n = fmean(values), len(values)
    if n < 2:
        return MeanEstimate(value=mean, low=None, high=None, n=n)
    if n < BOOTSTRAP_FROM:
        width = student_quantile((1 + level) / 2, n - 1) * stdev(values) / sqrt(n)
        return MeanEstimate(value=mean, low=mean - width, high=mean + width, n=n, method="t")
    low, high = _bootstrap_quantiles(values, ((1 - level) / 2, (1 + level) / 2))
    return MeanEstimate(value=mean, low=low, high=high, n=n, method="bootstrap")


def paired_estimate(first: Mapping[Key, float], second: Mapping[Key, float], level: float = LEVEL) -> MeanEstimate | None:
    """The mean of first - second over the seeds that both have; None if there are none."""
    differences = paired_differences(first, second)
    return estimate(differences, level) if differences else None


def paired_differences(first: Mapping[Key, float], second: Mapping[Key, float]) -> list[float]:
    """first - second for each key that both have, in the order of the first."""
    return [first[key] - second[key] for key in first if key in second]


def one_sided_bound(values: Sequence[float], side: Literal["lower", "upper"], level: float = LEVEL) -> float | None:
    """What the mean is not below (`lower`) or above, with probability `level`; None with fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    if n < BOOTSTRAP_FROM:
        width = student_quantile(level, n - 1) * stdev(values) / sqrt(n)
        return fmean(values) + (width if side == "upper" else -width)
    (bound,) = _bootstrap_quantiles(values, (level if side == "upper" else 1 - level,))
    return bound


def estimate_over_items(by_subject: Sequence[Sequence[float]], level: float = LEVEL) -> MeanEstimate | None:
    """The mean over subjects of the mean over the items of each, for one run. None without items.

    Items are independent; the degrees of freedom are those of Satterthwaite 1946. No interval if a subject has a single item.
    """
    found = [values for values in by_subject if values]
    if not found:
        return None
    value, n = fmean(map(fmean, found)), sum(map(len, found))
    if any(len(values) < 2 for values in found):
        return MeanEstimate(value=value, low=None, high=None, n=n, of="items")
    spreads = [variance(values) / len(values) for values in found]
    total = sum(spreads)
    freedom = total**2 / sum(s**2 / (len(values) - 1) for s, values in zip(spreads, found, strict=True)) if total else n - len(found)
    width = student_quantile((1 + level) / 2, freedom) * sqrt(total) / len(found)
    return MeanEstimate(value=value, low=value - width, high=value + width, n=n, of="items", method="t")


def chance_of_more(values: Sequence[float], than: float = 0.0) -> float | None:
    """p of the one-sided t test of 'the mean is at most `than`': small if it is shown to be above. None with fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    spread = stdev(values) / sqrt(n)
    if spread == 0:
        return 0.0 if fmean(values) > than else 1.0
    return student_tail((fmean(values) - than) / spread, n - 1)


def seeds_needed(spread: float, effect: float, level: float = LEVEL, power: float = 0.8) -> int | None:
    """How many seeds a one-sided paired t test needs to show a mean of `effect` among differences with standard deviation `spread`.

    The least n with n >= ((t_level + t_power) spread / effect)^2, both quantiles with n - 1 degrees of freedom. None if no number up to
    10,000 suffices, or if the effect is not above 0.
    """
    if effect <= 0:
        return None
    normal = NormalDist()
    n = max(2, int(((normal.inv_cdf(level) + normal.inv_cdf(power)) * spread / effect) ** 2))
    while n <= MOST_SEEDS:
        if n >= ((student_quantile(level, n - 1) + student_quantile(power, n - 1)) * spread / effect) ** 2:
            return n
        n += 1
    return None


@cache
def student_quantile(probability: float, freedom: float) -> float:
    """The t that a Student variable stays below with this probability, above one half, by the incomplete beta function of mpmath."""
    if not 0.5 < probability < 1:
        raise ValueError(f"a probability of {probability:g}: it must lie between .5 and 1")
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > 1 - probability:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, freedom) > 1 - probability else (low, middle)
    return high


def student_tail(t: float, freedom: float) -> float:
    """P(T > t) of a Student variable: I_x(v/2, 1/2) / 2 with x = v / (v + t^2) (Abramowitz & Stegun 1964, 26.7.1 and 26.5.27)."""
    from mpmath import betainc

    if t == inf:
        return 0.0
    tail = float(betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True)) / 2
    return tail if t >= 0 else 1 - tail


def _bootstrap_quantiles(values: Sequence[float], probabilities: Sequence[float]) -> list[float]:
    """Quantiles of the mean by the bias-corrected and accelerated bootstrap (Efron 1987, BCa)."""
    import numpy as np

    value_N = np.asarray(values, dtype=float)
    if value_N.min() == value_N.max():
        return [float(value_N[0])] * len(probabilities)
    rng = np.random.default_rng(RESAMPLE_SEED)
    mean_R = value_N[rng.integers(0, len(value_N), (RESAMPLES, len(value_N)))].mean(axis=1)
    below = (float((mean_R < value_N.mean()).mean()) + float((mean_R <= value_N.mean()).mean())) / 2
    normal = NormalDist()
    shift = normal.inv_cdf(min(max(below, 1 / RESAMPLES), 1 - 1 / RESAMPLES))
    deviation_N = value_N - value_N.mean()  # the jackknife's means differ by -deviation / (n - 1)
    acceleration = float((deviation_N**3).sum() / (6 * (deviation_N**2).sum() ** 1.5))
    found = []
    for probability in probabilities:
        z = shift + normal.inv_cdf(probability)
        found.append(float(np.quantile(mean_R, normal.cdf(shift + z / (1 - acceleration * z)))))
    return found
