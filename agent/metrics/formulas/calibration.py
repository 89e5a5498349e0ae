"""Whether a model knows what it knows, and what it can solve at all if it may try more than once. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import comb
from statistics import fmean

BINS = 10


def expected_calibration_error(confidences: Sequence[float], rights: Sequence[float], bins: int = BINS) -> float | None:
    """ECE = sum over bins of (n_b / n) |mean right - mean confidence|, bins of equal width (Guo et al. 2017). None without answers.

    With few answers a bin it is above 0 by chance alone; `brier_score` has no bins.
    """
    if not confidences:
        return None
    members: dict[int, list[tuple[float, float]]] = {}
    for confidence, right in zip(confidences, rights, strict=True):
        if not 0 <= confidence <= 1:
            raise ValueError(f"a confidence of {confidence:g}: it must lie in [0, 1]")
        members.setdefault(min(bins - 1, int(confidence * bins)), []).append((confidence, right))
    return sum(
        len(found) * abs(fmean(right for _, right in found) - fmean(confidence for confidence, _ in found)) for found in members.values()
    ) / len(confidences)


def brier_score(confidences: Sequence[float], rights: Sequence[float]) -> float | None:
    """Mean of (confidence - right)^2 (Brier 1950, for two outcomes). None without answers."""
    pairs = list(zip(confidences, rights, strict=True))
    return fmean((confidence - right) ** 2 for confidence, right in pairs) if pairs else None


def coverage(answers: Sequence[Sequence[float]], k: int) -> float | None:
    """pass@k, the share of items that one of k answers solves: mean of 1 - C(n-c, k) / C(n, k), without bias (Chen et al. 2021, HumanEval).

    `answers` has the scores of the n answers to each item; c of them are right, with a score above one half. Items with fewer than k
    answers are left out; None if none is left. Learning from rewards may raise the score of one answer and lower the coverage of many.
    """
    enough = [found for found in answers if len(found) >= k]
    if not enough:
        return None
    return fmean(1 - _chance_of_all_wrong(sum(score <= 0.5 for score in found), len(found), k) for found in enough)


@cache
def _chance_of_all_wrong(wrong: int, n: int, k: int) -> float:
    return comb(wrong, k) / comb(n, k)
