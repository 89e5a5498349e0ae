"""An interval for a mean that holds at whatever moment one stops to look.

A gate stops when its evidence is strong, so that an interval made for a sample size fixed beforehand would be too narrow, and the
usual ones have no width at all where every pair was a tie. This one is a confidence sequence by betting (Waudby-Smith & Ramdas,
'Estimating means of bounded random variables by betting', 2024, section 4): the means against which a gambler would not have grown rich.
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
