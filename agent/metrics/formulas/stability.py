"""How deep a score falls on the way, even if it recovers by the end. Pure functions of the R matrix and the checks within stages."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from perdure.agent.metrics.formulas.accuracy import mean_of
from perdure.agent.metrics.measured_run import ScoreBook
from perdure.agent.metrics.observation import BASE


def minimum_accuracy(book: ScoreBook) -> float | None:
    """min-ACC = mean over j learned before T of the lowest score of j at any check after it was learned (De Lange et al. 2023)."""
    return mean_of(min(after, default=None) for _, after in _after_learning(book))


def worst_case_accuracy(book: ScoreBook) -> float | None:
    """WC-ACC = (1/T) R[T][T] + (1 - 1/T) min-ACC, T the number of learned subjects (De Lange et al. 2023)."""
    matrix = book.matrix
    newest = mean_of(matrix.at(matrix.stages, subject) for subject, stage in matrix.learned.items() if stage == matrix.stages)
    lowest = minimum_accuracy(book)
    if newest is None or lowest is None:
        return newest if lowest is None else None
    share = sum(stage == matrix.stages for stage in matrix.learned.values()) / len(matrix.learned)
    return share * newest + (1 - share) * lowest


def stability_gap(book: ScoreBook) -> float | None:
    """Mean over j learned before T of R[j][j] minus the lowest score of j afterwards, at least 0 (after De Lange et al. 2023)."""
    falls = [start - min(after) for start, after in _after_learning(book) if start is not None and after]
    return mean_of(max(0.0, fall) for fall in falls)


def drawdown(scores: Sequence[float]) -> float:
    """max over t of (max over s <= t of score_s) - score_t: the deepest fall from a peak (Magdon-Ismail & Atiya 2004). 0 without scores.

    Like every maximum it is above 0 by noise alone.
    """
    peak, deepest = float("-inf"), 0.0
    for score in scores:
        peak = max(peak, score)
        deepest = max(deepest, peak - score)
    return deepest


def mean_drawdown(book: ScoreBook) -> float | None:
    """The mean drawdown over all environments that were scored at least twice, from the base on, at every check."""
    paths = [path_of(book, subject) for subject in book.matrix.environments()]
    found = [drawdown(path) for path in paths if len(path) > 1]
    return fmean(found) if found else None


def worst_drawdown(book: ScoreBook) -> float | None:
    """The largest drawdown of any environment, from the base on, at every check."""
    paths = [path_of(book, subject) for subject in book.matrix.environments()]
    return max((drawdown(path) for path in paths if len(path) > 1), default=None)


def path_of(book: ScoreBook, subject: str, since: int = BASE) -> list[float]:
    """All scores of a subject in order of time, from the end of stage `since` on: the checks of each stage, then its end.

    Checks after the update that a stage delivered are of versions that never served, and are left out.
    """
    path = []
    for stage in range(since, book.matrix.stages + 1):
        end = book.matrix.at(stage, subject)
        if stage > since:
            path += [point.score for point in book.on_the_way(stage, subject)]
        if end is not None:
            path.append(end)
    return path


def _after_learning(book: ScoreBook) -> list[tuple[float | None, list[float]]]:
    """For each subject learned before the last stage: its score when it was learned, and all scores since."""
    matrix = book.matrix
    found = []
    for subject, stage in matrix.learned.items():
        if stage < matrix.stages:
            path, start = path_of(book, subject, stage), matrix.at(stage, subject)
            found.append((start, path if start is None else path[1:]))
    return found
