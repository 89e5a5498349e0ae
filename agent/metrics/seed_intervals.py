"""How sure a mean is: intervals over seeds (Student's t, from ten seeds on no narrower than the bootstrap) and over items; tests of claims.

The unit is what was drawn independently: the seed. Arms are compared seed by seed. Within one run only items are left as a unit; such an
interval says how well this run was measured, and nothing about another run. For scores that were collected until they sufficed, as in a
gate, use `learners/gate/intervals.py`.

Values that are all the same say nothing of how much others would differ: they have no interval, no bound and no p.
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
ROUNDING = 1e-12

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
    method: Literal["t", "bootstrap", "exact", "none"] = "none"

    def as_json(self) -> Document:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n, "of": self.of, "method": self.method}


def estimate(values: Sequence[float], level: float = LEVEL) -> MeanEstimate:
    """The mean over seeds. Raises `ValueError` without values.

    From ten seeds on each end is that of the bootstrap or of t, whichever is farther out: with few values the bootstrap is too narrow.
    """
    mean, n = fmean(values), len(values)
    if not varies(values):
        return MeanEstimate(value=mean, low=None, high=None, n=n)
    width = student_quantile((1 + level) / 2, n - 1) * stdev(values) / sqrt(n)
    if n < BOOTSTRAP_FROM:
        return MeanEstimate(value=mean, low=mean - width, high=mean + width, n=n, method="t")
    low, high = _bootstrap_quantiles(values, ((1 - level) / 2, (1 + level) / 2))
    return MeanEstimate(value=mean, low=min(low, mean - width), high=max(high, mean + width), n=n, method="bootstrap")


def varies(values: Sequence[float]) -> bool:
    """Whether values differ by more than rounding; not if there are fewer than two."""
    return len(values) > 1 and max(values) - min(values) > ROUNDING * max(1.0, *map(abs, values))


def paired_estimate(first: Mapping[Key, float], second: Mapping[Key, float], level: float = LEVEL) -> MeanEstimate | None:
    """The mean of first - second over the seeds that both have; None if there are none."""
    differences = paired_differences(first, second)
    return estimate(differences, level) if differences else None


def paired_differences(first: Mapping[Key, float], second: Mapping[Key, float]) -> list[float]:
    """first - second for each key that both have, in the order of the first."""
    return [first[key] - second[key] for key in first if key in second]


def one_sided_bound(values: Sequence[float], side: Literal["lower", "upper"], level: float = LEVEL) -> float | None:
    """What the mean is not below (`lower`) or above, with probability `level`; None unless two values differ."""
    n = len(values)
    if not varies(values):
        return None
    width = student_quantile(level, n - 1) * stdev(values) / sqrt(n)
    bound = fmean(values) + (width if side == "upper" else -width)
    if n < BOOTSTRAP_FROM:
        return bound
    (drawn,) = _bootstrap_quantiles(values, (level if side == "upper" else 1 - level,))
    return max(drawn, bound) if side == "upper" else min(drawn, bound)


def estimate_over_items(
    by_subject: Sequence[Sequence[float]], level: float = LEVEL, *, least: float = -inf, most: float = inf
) -> MeanEstimate | None:
    """The mean over subjects of the mean over the items of each, for one run; None without items. It lies between `least` and `most`.

    Of one subject that is right or wrong on each item the interval is exact (Clopper & Pearson 1934). Else items are independent, and the
    degrees of freedom those of Satterthwaite 1946; no interval if a subject has a single item, or if no subject's items differ.
    """
    found = [values for values in by_subject if values]
    if not found:
        return None
    value, n = fmean(map(fmean, found)), sum(map(len, found))
    if len(found) == 1 and (least, most) == (0.0, 1.0) and n > 1 and set(found[0]) <= {0.0, 1.0}:
        low, high = exact_share(round(sum(found[0])), n, level)
        return MeanEstimate(value=value, low=low, high=high, n=n, of="items", method="exact")
    if any(len(values) < 2 for values in found) or not any(map(varies, found)):
        return MeanEstimate(value=value, low=None, high=None, n=n, of="items")
    spreads = [variance(values) / len(values) for values in found]
    total = sum(spreads)
    freedom = total**2 / sum(s**2 / (len(values) - 1) for s, values in zip(spreads, found, strict=True))
    width = student_quantile((1 + level) / 2, freedom) * sqrt(total) / len(found)
    return MeanEstimate(value=value, low=max(least, value - width), high=min(most, value + width), n=n, of="items", method="t")


@cache
def exact_share(right: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a share of which `right` of n were seen (Clopper & Pearson 1934), by the incomplete beta function of mpmath."""
    outside = (1 - level) / 2
    low = 0.0 if right == 0 else _beta_quantile(outside, right, n - right + 1)
    high = 1.0 if right == n else _beta_quantile(1 - outside, right + 1, n - right)
    return low, high


def _beta_quantile(probability: float, a: int, b: int) -> float:
    from mpmath import betainc

    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if float(betainc(a, b, 0, middle, regularized=True)) < probability else (low, middle)
    return (low + high) / 2


def chance_of_more(values: Sequence[float], than: float = 0.0) -> float | None:
    """p of the one-sided t test of 'the mean is at most `than`': small if it is shown to be above. None unless two values differ."""
    if not varies(values):
        return None
    n = len(values)
    return student_tail((fmean(values) - than) / (stdev(values) / sqrt(n)), n - 1)


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
