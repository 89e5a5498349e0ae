"""Intervals for the mean of bounded values: one for a gate, which stops when it likes, and one for probes, whose number is fixed before.

A gate stops when its evidence is strong, so that an interval made for a sample size fixed beforehand would be too narrow, and the
usual ones have no width at all where every pair was a tie. `mean_interval` is a confidence sequence by betting (Waudby-Smith & Ramdas,
'Estimating means of bounded random variables by betting', 2024, section 4): the means against which a gambler would not have grown rich.
`score_interval` is much narrower, and holds for one look only.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, log1p, sqrt

PRIOR_WEIGHT = 10
PRIOR_VARIANCE = 0.0625
"""Of values on a range of 1 (the variance of a uniform draw is .083); it fades as values come in."""
LARGEST_BET = 0.8
BISECTIONS = 24


def mean_interval(rounds: Sequence[Sequence[float]], *, low: float, high: float, level: float = 0.95) -> tuple[float, float]:
    """The means in [low, high] that the values do not speak against; it covers the true one at all times at once, with probability `level`.

    A round is a set of independent values, one of each source (a single source: rounds of one); the interval is then of the mean
    over the sources. No values: the whole range.
    """
    need = log(2 / (1 - level))
    mirrored = [[-value for value in values] for values in rounds]
    return _lower(rounds, low, high, need), -_lower(mirrored, -high, -low, need)


def score_interval(scores: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The means of scores in [0, 1] that `scores`, whose number was fixed beforehand, do not speak against. No scores: the whole range.

    Those m with n KL(mean, m) <= log(2 / (1 - level)), by the Chernoff bound, which holds for every bounded variable (Hoeffding,
    'Probability inequalities for sums of bounded random variables', 1963, theorem 1); of 0s and 1s alone, that of Clopper and
    Pearson would be a little narrower.
    """
    if not scores:
        return 0.0, 1.0
    mean, far = sum(scores) / len(scores), log(2 / (1 - level)) / len(scores)
    edges = []
    for edge in (0.0, 1.0):
        inside, outside = mean, edge
        for _ in range(BISECTIONS):
            middle = (inside + outside) / 2
            if _divergence(mean, middle) <= far:
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
    """The largest mean that can be excluded from below. Each factor falls as `mean` grows, so that bisection finds the edge."""
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
    """One bet a round, from the rounds before it only (the source's eq. 26)."""
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
