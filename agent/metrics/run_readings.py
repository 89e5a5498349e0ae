"""How each metric is read off a run: which scores, curves and items of it go into which formula. Pure functions.

A metric reads one run and the runs beside it, those of the same seed in other arms: a joint run, single-task runs, a stateless one. It is
None if the run lacks what it needs. `metric_table.py` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from perdure.agent.metrics.formulas import flips
from perdure.agent.metrics.formulas.accuracy import mean_of
from perdure.agent.metrics.formulas.calibration import coverage
from perdure.agent.metrics.formulas.forgetting_measures import intransigence
from perdure.agent.metrics.formulas.gain_and_drop import panel_drop
from perdure.agent.metrics.formulas.learning_speed import area_under_curve, learning_curve_area, relearning_savings
from perdure.agent.metrics.formulas.transfer import area_transfer, normalised_stateless_gain, stateless_gain, stream_scores
from perdure.agent.metrics.measured_run import DEV_SUFFIX, MAIN, MeasuredRun, Point
from perdure.agent.metrics.observation import BASE

SAMPLED_MEASURES = ("sampled", "success")
"""A version that is asked again gives another answer."""
SAME = 1e-9
"""Two probabilities that differ by less are one."""
COVERAGE_ANSWERS = 4
"""As many as a gate samples by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsBeside:
    """Runs of the same seed that a metric compares with; empty if there are none."""

    joint: Sequence[MeasuredRun] = ()
    """Learned all subjects at once."""
    single: Sequence[MeasuredRun] = ()
    """Learned one subject each, from the base."""
    stateless: Sequence[MeasuredRun] = ()
    """The same system without what it learned; without one the base stands for it."""


def target_curves(run: MeasuredRun, *, last: bool = False) -> dict[str, Sequence[Point]]:
    """The curve of each target within the first stage that learned it, or the last.

    On dev tasks if they were scored there: a study that chooses its checkpoints on dev tasks has these at
    every check, and tests one or two.
    """
    matrix = run.main.matrix
    stages = matrix.learned if last else matrix.first
    books = [book for measure, book in run.books.items() if measure.endswith(DEV_SUFFIX)] + [run.main]
    found = {subject: [curve for book in books if (curve := book.curves.get((stage, subject)))] for subject, stage in stages.items()}
    return {subject: curves[0] for subject, curves in found.items() if curves}


def final_scores(runs: Sequence[MeasuredRun]) -> dict[str, float]:
    """What each subject scored at the end of the last stage that learned it, averaged over runs."""
    found: dict[str, list[float]] = {}
    for run in runs:
        matrix = run.main.matrix
        for subject, stage in matrix.learned.items():
            score = matrix.at(stage, subject)
            if score is not None:
                found.setdefault(subject, []).append(score)
    return {subject: sum(scores) / len(scores) for subject, scores in found.items()}


def _areas(run: MeasuredRun) -> dict[str, float]:
    areas = {subject: area_under_curve(curve) for subject, curve in target_curves(run).items()}
    return {subject: area for subject, area in areas.items() if area is not None}


def read_area(run: MeasuredRun) -> float | None:
    """Of each target in the first stage that learned it."""
    return mean_of(_areas(run).values())


def read_area_transfer(run: MeasuredRun, beside: RunsBeside) -> float | None:
    """Against single-task runs; if several learned a subject, their mean."""
    areas = [_areas(other) for other in beside.single]
    subjects = {subject for of_run in areas for subject in of_run}
    return area_transfer(_areas(run), {subject: fmean(of_run[subject] for of_run in areas if subject in of_run) for subject in subjects})


def read_lca(run: MeasuredRun) -> float | None:
    """Of each target in the first stage that learned it."""
    return mean_of(learning_curve_area(curve) for curve in target_curves(run).values())


def read_savings(run: MeasuredRun) -> float | None:
    """Of the targets that two stages learned, the first against the last."""
    matrix = run.main.matrix
    again = target_curves(run, last=True)
    return mean_of(
        relearning_savings(curve, again[subject])
        for subject, curve in target_curves(run).items()
        if subject in again and matrix.learned[subject] > matrix.first[subject]
    )


def _stateless(run: MeasuredRun, beside: RunsBeside) -> tuple[list[float], list[float]]:
    """The scores of the stream's tasks, and those of the stateless self on the same."""
    stream = stream_scores(run.main.matrix)
    others = [other.main.matrix for other in beside.stateless] or [run.main.matrix]
    pairs = []
    for (stage, subject), score in stream.items():
        stateless = mean_of(other.at(stage if beside.stateless else BASE, subject) for other in others)
        if stateless is not None:
            pairs.append((score, stateless))
    return [score for score, _ in pairs], [score for _, score in pairs]


def read_stateless_gain(run: MeasuredRun, beside: RunsBeside) -> float | None:
    """Over the targets after each stage, against a stateless run, else against the base."""
    stateful, stateless = _stateless(run, beside)
    return stateless_gain(stateful, stateless) if stateful else None


def read_normalised_gain(run: MeasuredRun, beside: RunsBeside) -> float | None:
    """The same, as a share of the room that the stateless self left."""
    stateful, stateless = _stateless(run, beside)
    return normalised_stateless_gain(stateful, stateless) if stateful else None


def flip_subjects(run: MeasuredRun, measure: str = MAIN) -> dict[str, int]:
    """Over which subjects flips are counted, and since which stage: all environments, or, of a measure of the panel, its skills.

    Since the base, and for a target since it was last learned.
    """
    book = run.book(measure)
    starts = {} if book is None else flips.flip_starts(book)
    return {subject: start for subject, start in starts.items() if measure != MAIN or subject not in run.main.matrix.skills}


def flip_totals(run: MeasuredRun, measure: str = MAIN) -> flips.FlipCounts | None:
    """Over all subjects of `flip_subjects`; None without items on both sides."""
    book, subjects = run.book(measure), flip_subjects(run, measure)
    if book is None or not subjects:
        return None
    return sum(flips.flips_since(book, subjects).values(), flips.FlipCounts())


def read_panel_drop(run: MeasuredRun) -> float | None:
    """By the probability of the right answer; None without the panel's scores on both sides."""
    book = run.book("choice")
    return None if book is None else panel_drop(book.matrix)


def read_recall_by_chance(run: MeasuredRun) -> float | None:
    """`recall` of all environments if nothing had changed; None if no answer was sampled, since it is 1 then."""
    counts = _counts_by_chance(run)
    right = sum(2 * one.kept + one.lost + one.gained for one, _ in counts) / 2
    return sum(kept for _, kept in counts) / right if right else None


def read_flips_by_chance(run: MeasuredRun) -> float | None:
    """The share of flips in either direction if nothing had changed; None if no answer was sampled, since it is 0 then."""
    counts = _counts_by_chance(run)
    n = sum(one.n for one, _ in counts)
    return sum((2 * one.kept + one.lost + one.gained) / 2 - kept for one, kept in counts) / n if n else None


def _counts_by_chance(run: MeasuredRun) -> list[tuple[flips.FlipCounts, float]]:
    """The flips of each environment, and how many items would be kept by chance; empty if no answer was sampled."""
    sampled = {subject for measure in SAMPLED_MEASURES if (book := run.book(measure)) is not None for subject in book.matrix.subjects()}
    found = flips.flips_since(run.main, flip_subjects(run))
    if not sampled & found.keys():
        return []
    return [(one, flips.kept_by_chance(one, is_sampled=subject in sampled)) for subject, one in found.items()]


def read_flips(run: MeasuredRun, value: Callable[[flips.FlipCounts], float | None], measure: str = MAIN) -> float | None:
    """A number of the flips over all subjects, for instance `recall`."""
    counts = flip_totals(run, measure)
    return None if counts is None else value(counts)


def read_intransigence(run: MeasuredRun, others: Sequence[MeasuredRun]) -> float | None:
    """Against a joint run or single-task runs; None without them."""
    return intransigence(run.main.matrix, final_scores(others)) if others else None


def confidences(run: MeasuredRun) -> tuple[list[float], list[float]]:
    """At the end, on the panel: how sure the model was of the answer that it preferred, and whether that is the right one."""
    sure_book, right_book = run.book("confidence"), run.book("choice")
    if sure_book is None or right_book is None:
        return [], []
    pairs = []
    for (stage, subject), items in sure_book.items.items():
        if stage == sure_book.matrix.stages:
            rights = right_book.items.get((stage, subject), {})
            pairs += [(sure, rights[item]) for item, sure in items.items() if item in rights]
    return [sure for sure, _ in pairs], [float(right >= sure - SAME) for sure, right in pairs]


def read_coverage(run: MeasuredRun) -> float | None:
    """At the end, over the subjects whose items have several answers."""
    matrix = run.main.matrix
    found = [run.main.answers.get((matrix.stages, subject)) for subject in matrix.subjects()]
    return mean_of(coverage(list(items.values()), COVERAGE_ANSWERS) for items in found if items)
