"""What an update brings on its targets and costs elsewhere, as the paper measures it, and the same at matched gain.

Chen, Razin, Narasimhan & Chen, 'Retaining by Doing' (arXiv 2510.18874), section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from perdure.agent.metrics.formulas.accuracy import mean_of
from perdure.agent.metrics.measured_run import ScoreBook, ScoreMatrix
from perdure.agent.metrics.observation import BASE


class Tradeoff(NamedTuple):
    """Gain and drop at one check."""

    gain: float
    drop: float


def gain(matrix: ScoreMatrix) -> float | None:
    """Mean over the targets j of R[T][j] - R[0][j] (2510.18874, section 2.1, which has one target)."""
    return mean_of(matrix.change(subject, BASE, matrix.stages) for subject in matrix.learned)


def drop(matrix: ScoreMatrix) -> float | None:
    """(1/M) sum over the M environments j that were never a target of R[0][j] - R[T][j] (2510.18874, section 2.1).

    Negative: they improved. Skills of the panel are not among them: `panel_drop`.
    """
    change = mean_of(matrix.change(subject, BASE, matrix.stages) for subject in matrix.subjects() if matrix.is_non_target(subject))
    return None if change is None else -change


def panel_drop(matrix: ScoreMatrix) -> float | None:
    """The same over the skills of the panel, of the matrix of `choice`: the probability of the right answer among those listed."""
    change = mean_of(matrix.change(subject, BASE, matrix.stages) for subject in matrix.subjects() if subject in matrix.skills)
    return None if change is None else -change


def tradeoff_curve(book: ScoreBook, stage: int = 1) -> list[Tradeoff]:
    """Gain and drop against the base at each check of a stage, in order, over the environments that have a check there."""
    matrix = book.matrix
    by_update: dict[int, list[tuple[str, float]]] = {}
    for (at, subject), points in book.curves.items():
        base = matrix.at(BASE, subject)
        if at == stage and base is not None:
            for update, score in points:
                by_update.setdefault(update, []).append((subject, score - base))
    curve = []
    for update in sorted(by_update):
        gained = mean_of(change for subject, change in by_update[update] if subject in matrix.learned)
        kept = mean_of(change for subject, change in by_update[update] if matrix.is_non_target(subject))
        if gained is not None and kept is not None:
            curve.append(Tradeoff(gained, -kept))
    return curve


def drop_at_gain(curve: Sequence[Tradeoff], wanted: float) -> float | None:
    """The drop where the gain first reaches `wanted`, linear between checks; None if it never does: then it is not comparable.

    Comparing at matched gain: Shenfeld et al. 2025, 'RL's Razor' (2509.04259).
    """
    before: Tradeoff | None = None
    for point in curve:
        if point.gain >= wanted:
            if before is None or point.gain == before.gain:
                return point.drop
            share = (wanted - before.gain) / (point.gain - before.gain)
            return before.drop + share * (point.drop - before.drop)
        before = point
    return None
