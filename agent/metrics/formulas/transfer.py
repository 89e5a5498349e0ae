"""What learning one subject does to others, and what a run has from having learned at all. Pure functions; R[i][j] as in the matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from perdure.agent.metrics.formulas.accuracy import mean_of
from perdure.agent.metrics.measured_run import ScoreMatrix
from perdure.agent.metrics.observation import BASE


def backward_transfer(matrix: ScoreMatrix) -> float | None:
    """BWT = (1/(T-1)) sum over j learned before stage T of R[T][j] - R[j][j] (Lopez-Paz & Ranzato 2017, GEM). None if T is 1."""
    return mean_of(matrix.change(subject, stage, matrix.stages) for subject, stage in matrix.learned.items() if stage < matrix.stages)


def forward_transfer(matrix: ScoreMatrix) -> float | None:
    """FWT = (1/(T-1)) sum over j first learned after stage 1 of R[j-1][j] - b_j (Lopez-Paz & Ranzato 2017, GEM).

    b_j is the score of the base model, as usual with pretrained models; GEM takes one at random.
    """
    return mean_of(matrix.change(subject, BASE, stage - 1) for subject, stage in matrix.first.items() if stage > 1)


def area_transfer(areas: Mapping[str, float], reference_areas: Mapping[str, float]) -> float | None:
    """Mean over j of (AUC_j - AUC_j^ref) / (1 - AUC_j^ref), the areas under the learning curves (Wolczyk et al. 2021, Continual World).

    The reference learns each subject from the base. None if no subject is in both; one whose reference is 1 is left out.
    """
    shared = [(areas[subject], reference_areas[subject]) for subject in areas if subject in reference_areas]
    return mean_of((area - reference) / (1 - reference) for area, reference in shared if reference < 1)


def stateless_gain(stateful: Sequence[float], stateless: Sequence[float]) -> float:
    """Mean over the tasks t of a stream of score_t - stateless score_t, of the same system without experience (CL-Bench, 2606.05661).

    The two have the same tasks in the same order. Raises `ValueError` if their numbers differ or are 0.
    """
    return fmean(after - before for after, before in zip(stateful, stateless, strict=True))


def normalised_stateless_gain(stateful: Sequence[float], stateless: Sequence[float], highest: float = 1.0) -> float | None:
    """(mean score - mean stateless score) / (highest - mean stateless score): the share of the room that was used (CL-Bench, 2606.05661).

    None if there was no room. Normalised after averaging, as there.
    """
    room = highest - fmean(stateless)
    return stateless_gain(stateful, stateless) / room if room > 0 else None


def stream_scores(matrix: ScoreMatrix) -> dict[tuple[int, str], float]:
    """The scores of all targets after every stage: what a stream of tasks meets."""
    return {
        (stage, subject): score
        for subject in matrix.learned
        for stage in range(1, matrix.stages + 1)
        if (score := matrix.at(stage, subject)) is not None
    }
