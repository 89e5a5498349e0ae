"""How fast a subject is learned, and learned again. Pure functions of the curve within a stage: scores at numbers of updates, in order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from perdure.agent.metrics.measured_run import Point

LCA_UPDATES = 10
"""As in A-GEM's tables."""


def area_under_curve(curve: Sequence[Point]) -> float | None:
    """AUC: mean height of the curve from its first check to its last, by the trapezoid rule (Wolczyk et al. 2021, Continual World).

    In [0, 1] for scores in [0, 1], so that stages of different length compare. None with fewer than two checks.
    """
    if len(curve) < 2:
        return None
    area = sum((b.update - a.update) * (a.score + b.score) / 2 for a, b in pairwise(curve))
    return area / (curve[-1].update - curve[0].update)


def learning_curve_area(curve: Sequence[Point], updates: int = LCA_UPDATES) -> float | None:
    """LCA_beta = (1/(beta+1)) sum over b = 0..beta of the score after b updates, linear between checks (Chaudhry et al. 2019, A-GEM).

    None if the checks do not reach from 0 to beta.
    """
    if not curve or curve[0].update > 0 or curve[-1].update < updates:
        return None
    return sum(score_at(curve, b) for b in range(updates + 1)) / (updates + 1)


def updates_to_reach(curve: Sequence[Point], score: float) -> float | None:
    """After how many updates the curve first reaches a score, linear between checks; None if it never does."""
    before: Point | None = None
    for point in curve:
        if point.score >= score:
            if before is None:
                return float(point.update)
            return before.update + (score - before.score) / (point.score - before.score) * (point.update - before.update)
        before = point
    return None


def relearning_savings(first: Sequence[Point], again: Sequence[Point], share: float = 0.9) -> float | None:
    """(N_first - N_again) / N_first, N the updates to the criterion (savings: Ebbinghaus 1885).

    The criterion is `share` of the way from the start of the first curve to its highest check. 1: nothing had to be learned again; 0: as
    slow as at first; below 0: slower. If it is not reached again, N_again is the updates that were spent, and N_first at least, so that a
    target that was not relearned is not left out of a mean and does not look like a saving. None if there is no gain to relearn.
    """
    if len(first) < 2:
        return None
    start, highest = first[0].score, max(point.score for point in first)
    if highest <= start:
        return None
    criterion = start + share * (highest - start)
    needed, needed_again = updates_to_reach(first, criterion), updates_to_reach(again, criterion)
    if not needed or not again:
        return None
    if needed_again is None:
        needed_again = max(float(again[-1].update), needed)
    return (needed - needed_again) / needed


def score_at(curve: Sequence[Point], update: float) -> float:
    """Linear between checks. Raises `ValueError` outside of them."""
    for a, b in pairwise(curve):
        if a.update <= update <= b.update:
            return a.score + (update - a.update) / (b.update - a.update) * (b.score - a.score)
    if len(curve) == 1 and curve[0].update == update:
        return curve[0].score
    raise ValueError(f"the curve has no score at update {update:g}")
