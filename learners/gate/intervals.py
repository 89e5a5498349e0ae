"""Confidence intervals for the mean of bounded values: one for gates, which stop early, and one for probes of a fixed size.

For a gate, which stops once its evidence is strong, an interval for a fixed sample size would be too narrow, and the usual ones have no
width if every pair was a tie. `mean_interval` is a confidence sequence by betting (Waudby-Smith & Ramdas, 'Estimating means of bounded
random variables by betting', 2024, section 4): the means against which a gambler would not have become rich. `score_interval` is much
narrower, and valid for a fixed sample size only.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, log1p, sqrt

PRIOR_WEIGHT = 10
PRIOR_VARIANCE = 0.0625
"""For values in a range of 1 (a uniform draw has .083); its influence fades with the number of values."""
LARGEST_BET = 0.8
BISECTIONS = 24


def mean_interval(rounds: Sequence[Sequence[float]], *, low: float, high: float, level: float = 0.95) -> tuple[float, float]:
    """The means in [low, high] that the values do not contradict; covers the true mean at all times at once, with probability `level`.

    A round is a set of independent values, one of each source; the interval is for the mean over the sources. Without values it is the
    whole range.
    """
    need = log(2 / (1 - level))
    mirrored = [[-value for value in values] for values in rounds]
    return _lower(rounds, low, high, need), -_lower(mirrored, -high, -low, need)


def score_interval(scores: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The means in [0, 1] that `scores` do not contradict; their number must be fixed beforehand. Without scores it is the whole range.

    All m with n KL(mean, m) <= log(2 / (1 - level)): the Chernoff bound, which holds for every bounded variable (Hoeffding, 'Probability
    inequalities for sums of bounded random variables', 1963, theorem 1). For scores of 0 and 1 alone, Clopper and Pearson's interval would
    be a little narrower.
    """
    return interval_of_mean(sum(scores) / len(scores), len(scores), level) if scores else (0.0, 1.0)


def interval_of_mean(mean: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """The same, of `n` scores with this mean."""
    bound = log(2 / (1 - level)) / n
    edges = []
    for edge in (0.0, 1.0):
        inside, outside = mean, edge
        for _ in range(BISECTIONS):
            middle = (inside + outside) / 2
            if _divergence(mean, middle) <= bound:
                inside = middle
            else:
                outside = middle
        edges.append(outside)
    return edges[0], edges[1]


def _divergence(p: float, q: float) -> float:
    """KL(p, q) of two coins, in nats."""
    heads = p * log(p / q) if p > 0 else 0.0
    tails = (1 - p) * log((1 - p) / (1 - q)) if p < 1 else 0.0
    return heads + tails


def _lower(rounds: Sequence[Sequence[float]], low: float, high: float, need: float) -> float:
    """The largest mean that can be excluded from below. Wealth falls as `mean` grows, so bisection finds it."""
    bets = _bets(rounds, high - low, need)
    excluded, possible = low, high
    for _ in range(BISECTIONS):
        mean = (excluded + possible) / 2
        if _ever_rich(rounds, bets, mean, LARGEST_BET / (mean - low), need):
            excluded = mean
        else:
            possible = mean
    return excluded


def _bets(rounds: Sequence[Sequence[float]], width: float, need: float) -> list[float]:
    """One bet per round, computed from earlier rounds only (equation 26 of the paper)."""
    bets, count, total, squares = [], 0, 0.0, 0.0
    for values in rounds:
        centre = total / count if count else 0.0
        spread = max(squares - count * centre * centre, 0.0)
        variance = (PRIOR_WEIGHT * PRIOR_VARIANCE * width * width + spread) / (PRIOR_WEIGHT + count)
        bets.append(sqrt(2 * need / (variance * (count + 1) * log(count + 2))))
        count += len(values)
        total += sum(values)
        squares += sum(value * value for value in values)
    return bets


def _ever_rich(rounds: Sequence[Sequence[float]], bets: Sequence[float], mean: float, largest: float, need: float) -> bool:
    log_wealth = 0.0
    for values, bet in zip(rounds, bets, strict=True):
        stake = min(bet, largest)
        for value in values:
            log_wealth += log1p(stake * (value - mean))
        if log_wealth >= need:
            return True
    return False
