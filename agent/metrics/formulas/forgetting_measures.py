"""Forgetting in its two kinds, what is retained, and what is not learned at all. Pure functions of the R matrix and of the items behind it.

Both kinds hide flips (`flips.py`), and the kind that takes a maximum is above zero even if nothing changes, because the best of several
noisy means is above the last one: `forgetting_by_chance` says by how much.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING

from perdure.agent.metrics.formulas.accuracy import mean_of
from perdure.agent.metrics.measured_run import ScoreBook, ScoreMatrix

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
    change = mean_of(matrix.change(subject, stage, last) for subject, stage in matrix.first.items() if stage < last)
    return None if change is None else -change


def forgetting_by_chance(book: ScoreBook) -> float | None:
    """What `forgetting_from_best` comes to in the mean if no stage differs from another: its bias in an A/A comparison.

    Of each subject the scores of an item are shuffled over the stages that scored it, as in a permutation test: this keeps how noisy each
    item is. Items that some stages lack are drawn anew besides, each stage as many as it had: with other items a mean differs by their draw
    alone. If a run did change, the shuffles mix the change in, and the bias is overstated. It has a value for every subject that
    `forgetting_from_best` has one for.
    """
    last = book.matrix.stages
    by_subject = []
    for subject, learned in book.matrix.learned.items():
        stages = [stage for stage in range(1, last + 1) if (stage, subject) in book.items]
        if learned < last and len(stages) > 1 and stages[-1] == last:
            by_subject.append(_forgetting_of_no_change([book.items[stage, subject] for stage in stages]))
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


def _forgetting_of_no_change(stages: list[Mapping[str, float]]) -> float:
    """The mean of max over all but the last minus the last, over draws of the stages' means in which no stage differs from another."""
    import numpy as np

    number_S = np.array([len(found) for found in stages])
    total_DS = _totals_of_no_change(stages)
    mean_DS = total_DS / number_S
    return float((mean_DS[:, :-1].max(axis=1) - mean_DS[:, -1]).mean())


def _totals_of_no_change(stages: list[Mapping[str, float]]) -> NDArray[np.float64]:
    """Draws of the sum of the scores at each stage.

    Items are grouped by the stages that scored them. Those that all stages scored are only shuffled. Of the other groups items are drawn
    with replacement, those of a single stage from all such items, and the means of these groups are made equal, since nothing tells their
    items apart but the draw.
    """
    import numpy as np

    rng = np.random.default_rng(SHUFFLE_SEED)
    groups: dict[tuple[int, ...], list[list[float]]] = {}
    for item in sorted({item for found in stages for item in found}):
        here = tuple(stage for stage, found in enumerate(stages) if item in found)
        groups.setdefault(here, []).append([stages[stage][item] for stage in here])
    total_DS = np.zeros((SHUFFLES, len(stages)))
    common = groups.pop(tuple(range(len(stages))), [])
    if common:
        score_IS = np.array(common)
        varied_IS = score_IS[score_IS.min(axis=1) < score_IS.max(axis=1)]  # the others are the same in each shuffle
        total_DS += float(score_IS.sum() - varied_IS.sum()) / len(stages)
        for draw in range(SHUFFLES):
            total_DS[draw] += rng.permuted(varied_IS, axis=1).sum(axis=0)
    single = [scores for here, found in groups.items() if len(here) == 1 for scores in found]
    middle = fmean(fmean(scores) for found in groups.values() for scores in found) if groups else 0.0
    for here, found in groups.items():
        score_IK = np.array(single if len(here) == 1 else found)
        total_DS[:, list(here)] += len(found) * (middle - score_IK.mean())
        for draw in range(SHUFFLES):
            drawn_IK = score_IK[rng.integers(0, len(score_IK), len(found))]
            total_DS[draw, list(here)] += rng.permuted(drawn_IK, axis=1).sum(axis=0)
    return total_DS
