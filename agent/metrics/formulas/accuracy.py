"""How good a run is over all that it learned. Pure functions of the R matrix; R[i][j] is the score of subject j after stage i of T."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from perdure.agent.metrics.measured_run import ScoreMatrix


def average_accuracy(matrix: ScoreMatrix) -> float | None:
    """ACC = mean over the learned subjects j of R[T][j] (Lopez-Paz & Ranzato 2017, GEM). None if none was measured at the end."""
    return mean_of(matrix.at(matrix.stages, subject) for subject in matrix.learned)


def average_incremental_accuracy(matrix: ScoreMatrix) -> float | None:
    """AIA = (1/T) sum_i mean over the subjects j learned up to stage i of R[i][j] (Rebuffi et al. 2017, iCaRL)."""
    stages = range(1, matrix.stages + 1)
    return mean_of(mean_of(matrix.at(i, subject) for subject, stage in matrix.first.items() if stage <= i) for i in stages)


def learned_accuracy(matrix: ScoreMatrix) -> float | None:
    """Mean over the learned subjects j of R[j][j], each just after it was learned (MFT in MCITlib and MRCL)."""
    return mean_of(matrix.at(stage, subject) for subject, stage in matrix.learned.items())


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there; None if none is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
