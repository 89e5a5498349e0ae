"""How a score moves through a run: the points of its curve, on one scale for all runs of a stream, and their estimates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from perdure.agent.metrics.measured_run import DEV_SUFFIX, MAIN, MeasuredRun, ScoreBook
from perdure.agent.metrics.observation import BASE
from perdure.agent.metrics.seed_intervals import MeanEstimate
from perdure.agent.studies.report.report_data import last_stage, over_seeds

Path = Mapping[float, float]
"""Score by place. In a stream with one stage a place is the number of updates, else the number of stages that have ended."""


def score_measures(runs: Sequence[MeasuredRun]) -> list[str]:
    """The main measure, and those on dev tasks."""
    return [MAIN, *dict.fromkeys(measure for run in runs for measure in run.books if measure.endswith(DEV_SUFFIX))]


def curve_measure(runs: Sequence[MeasuredRun], subjects: Sequence[str]) -> str:
    """The measure with the most scores of these subjects, within stages and at their ends: the main one, or one on dev tasks."""

    def scores(measure: str) -> int:
        books = [book for run in runs if (book := run.book(measure)) is not None]
        within = sum(len(points) for book in books for (_, subject), points in book.curves.items() if subject in subjects)
        return within + sum(subject in subjects for book in books for _, subject in book.matrix.scores)

    return max(score_measures(runs), key=scores)


def path_of_subject(run: MeasuredRun, subject: str, measure: str, *, by_update: bool) -> Path:
    """The points of one subject in one run, in order; the end of a stage stands at the update that it delivered."""
    book = run.book(measure)
    if book is None:
        return {}
    points: dict[float, float] = {}
    start = book.matrix.at(BASE, subject)
    if start is not None:
        points[0.0] = start
    for stage in range(1, book.matrix.stages + 1):
        length = stage_length(book, stage)
        for check in book.curves.get((stage, subject), ()) if by_update else book.on_the_way(stage, subject):
            points[float(check.update) if by_update else stage - 1 + check.update / length] = check.score
        end = book.matrix.at(stage, subject)
        if end is not None:
            points[float(length) if by_update else float(stage)] = end
    return dict(sorted(points.items()))


def path_of_mean(run: MeasuredRun, subjects: Sequence[str], measure: str, *, by_update: bool) -> Path:
    """The mean over subjects, at the places that all of them have."""
    paths = [path for subject in subjects if (path := path_of_subject(run, subject, measure, by_update=by_update))]
    shared = set.intersection(*(set(path) for path in paths)) if paths else set()
    return {place: fmean(path[place] for path in paths) for place in sorted(shared)}


def along(runs: Sequence[MeasuredRun], path: Callable[[MeasuredRun], Path]) -> dict[float, MeanEstimate]:
    """The estimate over seeds at each place."""
    found: dict[float, list[tuple[int, float]]] = {}
    for run in runs:
        for place, score in path(run).items():
            found.setdefault(place, []).append((run.name.seed, score))
    return {place: one for place in sorted(found) if (one := over_seeds(found[place])) is not None}


def stage_length(book: ScoreBook, stage: int) -> int:
    """Updates of what a stage delivered, or, if that is not known, up to its last check."""
    checked = [points[-1].update for (at, _), points in book.curves.items() if at == stage and points]
    return book.updates.get(stage) or max([*checked, 1])


def is_one_stage(runs: Sequence[MeasuredRun]) -> bool:
    return last_stage(runs) <= 1
