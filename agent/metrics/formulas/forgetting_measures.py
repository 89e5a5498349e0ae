"""Forgetting in its two kinds, what is retained, and what is not learned at all. Pure functions of the R matrix and of the items behind it.

Both kinds hide flips (`flips.py`), and the kind that takes a maximum is above zero even if nothing changes, because the best of several
noisy means is above the last one: `forgetting_by_chance` says by how much.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from perdure.agent.metrics.formulas.accuracy import mean_of
from perdure.agent.metrics.measured_run import ScoreBook, ScoreMatrix

SHUFFLES = 200
SHUFFLE_SEED = 18


def forgetting_from_best(matrix: ScoreMatrix) -> float | None:
    """F = mean over j learned before T of max over l = 1..T-1 of R[l][j], minus R[T][j] (Chaudhry et al. 2018, RWalk, 1801.10112).

    The maximum is over the stages before the last, so that it can be negative; Mammoth takes it over all stages.
    """
    last = matrix.stages

    def one(subject: str) -> float | None:
        after = matrix.at(last, subject)
        before = [score for stage in range(1, last) if (score := matrix.at(stage, subject)) is not None]
        return None if after is None or not before else max(before) - after

    return mean_of(one(subject) for subject, stage in matrix.learned.items() if stage < last)


def forgetting_since_learned(matrix: ScoreMatrix) -> float | None:
    """Mean over j learned before T of R[j][j] - R[T][j], with j as it was first learned: the first score minus the last (Avalanche)."""
    last = matrix.stages

    def one(subject: str, stage: int) -> float | None:
        before, after = matrix.at(stage, subject), matrix.at(last, subject)
        return None if before is None or after is None else before - after

    return mean_of(one(subject, stage) for subject, stage in matrix.first.items() if stage < last)


def forgetting_by_chance(book: ScoreBook) -> float | None:
    """What `forgetting_from_best` comes to in the mean if no stage differs from another: its bias in an A/A comparison.

    For each subject the scores of every item are shuffled over the stages 1..T, independently of other items, as in a permutation test:
    this keeps how noisy each item is. If a run did change, the shuffles mix the change in, and the bias is overstated. Only items that were
    scored at all stages of their subject count.
    """
    last = book.matrix.stages
    by_subject = []
    for subject, learned in book.matrix.learned.items():
        stages = [stage for stage in range(1, last + 1) if (stage, subject) in book.items]
        if learned < last and len(stages) > 1 and stages[-1] == last:
            by_subject.append(_shuffled_forgetting([book.items[stage, subject] for stage in stages]))
    return mean_of(by_subject)


def retention_ratio(matrix: ScoreMatrix) -> float | None:
    """Mean of R[T][j] / mean of R[j][j], over j learned before T (MFN / MFT in MRCL, 2607.04364). None if the latter is 0."""
    pairs = [
        (after, before)
        for subject, stage in matrix.learned.items()
        if stage < matrix.stages
        and (after := matrix.at(matrix.stages, subject)) is not None
        and (before := matrix.at(stage, subject)) is not None
    ]
    first = sum(before for _, before in pairs)
    return sum(after for after, _ in pairs) / first if first > 0 else None


def intransigence(matrix: ScoreMatrix, reference: Mapping[str, float]) -> float | None:
    """Mean over the learned j of a*_j - R[j][j]; a*_j is of a model that learned all jointly, or j alone (Chaudhry et al. 2018, RWalk)."""

    def one(subject: str, stage: int) -> float | None:
        score = matrix.at(stage, subject)
        return None if score is None or subject not in reference else reference[subject] - score

    return mean_of(one(subject, stage) for subject, stage in matrix.first.items())


def _shuffled_forgetting(stages: list[Mapping[str, float]]) -> float | None:
    """The mean of max over all but the last minus the last, over shuffles of each item's scores."""
    import numpy as np

    items = sorted(set.intersection(*(set(found) for found in stages)))
    if not items:
        return None
    score_IS = np.array([[found[item] for found in stages] for item in items])
    varied_IS = score_IS[score_IS.min(axis=1) < score_IS.max(axis=1)]  # the others are the same in each shuffle
    fixed = float(score_IS.sum() - varied_IS.sum()) / score_IS.shape[1]
    rng = np.random.default_rng(SHUFFLE_SEED)
    found = []
    for _ in range(SHUFFLES):
        mean_S = (rng.permuted(varied_IS, axis=1).sum(axis=0) + fixed) / len(items)
        found.append(float(mean_S[:-1].max() - mean_S[-1]))
    return fmean(found)
