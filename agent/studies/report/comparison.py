"""Two studies side by side, on what both observed: the same arm, order and seed, and of those the same items. Pure.

Everything is B - A. Differences are paired by seed, orders averaged first; with one seed they are paired by item, and say so. Left out:
tests of claims, which belong to a study that states them beforehand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean, stdev
from typing import Literal

from perdure.agent.metrics.arm_summary import metrics_by_arm, seed_means
from perdure.agent.metrics.formulas.flips import FlipCounts, count_flips
from perdure.agent.metrics.measured_run import MAIN, MAIN_MEASURES, MeasuredRun, measured_runs
from perdure.agent.metrics.metric import Better
from perdure.agent.metrics.metric_table import METRIC
from perdure.agent.metrics.observation import BASE, ResultTable
from perdure.agent.metrics.seed_intervals import LEVEL, MeanEstimate, estimate, estimate_over_items, seeds_needed, varies
from perdure.agent.studies.report.report_data import is_score
from perdure.memory.errors import InputError
from perdure.memory.json_value import Document

BETTER: Mapping[str, Better] = {"cross_entropy": "lower", "kl_new": "lower", "kl_old": "lower", "confidence": "neither"}
"""By measure; of all others more is better."""
Verdict = Literal["better", "worse", "not shown", "differs"]

Pair = tuple[MeasuredRun, MeasuredRun]
"""The run of A and that of B."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedScore:
    """One subject under one measure at the end of the runs."""

    arm: str
    subject: str
    measure: str
    a: float
    b: float
    difference: MeanEstimate
    flips: FlipCounts | None
    """From A to B, over the items of all runs; None of a measure that is not right or wrong."""
    verdict: Verdict
    seeds_needed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedMetric:
    """One metric of one arm."""

    arm: str
    metric: str
    a: float
    b: float
    difference: MeanEstimate
    verdict: Verdict
    """Of B."""
    seeds_needed: int | None
    """To show a difference as large as the one found by such an interval, with power .8; None if it is shown, or none can be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyComparison:
    """What two studies have in common, and how B differs."""

    arms: Sequence[tuple[str, str]]
    """That were compared: of A, of B."""
    runs: int
    """In both."""
    items: int
    """Scored at the end of a run in both."""
    base_differs: int
    """Of the items that both scored with the base model: if any, then not only the arms differ."""
    metrics: Sequence[ComparedMetric]
    scores: Sequence[ComparedScore]


def compare_studies(a: ResultTable, b: ResultTable, arms: tuple[str, str] | None = None) -> StudyComparison:
    """Compare arms of the same name, or the two named ones: the first of A, the second of B.

    Raises `InputError` if an arm is not there, or no order and seed is in both.
    """
    runs_a, runs_b = measured_runs(a), measured_runs(b)
    pairs_of_arms = _arms(runs_a, runs_b, arms)
    metrics: list[ComparedMetric] = []
    scores: list[ComparedScore] = []
    every: list[Pair] = []
    for arm_a, arm_b in pairs_of_arms:
        pairs = _pairs(runs_a, runs_b, arm_a, arm_b)
        every += pairs
        name = arm_a if arm_a == arm_b else f"{arm_b} - {arm_a}"
        metrics += _metrics(name, pairs, runs_a, runs_b)
        scores += _scores(name, pairs)
    if not every:
        raise InputError("the two have no run in common: the same arm, order and seed; --arms A_ARM B_ARM compares arms of different names")
    return StudyComparison(
        arms=pairs_of_arms,
        runs=len(every),
        items=sum(len(_shared(pair, measure, subject)) for pair in every for measure, subject in _places(pair)),
        base_differs=sum(map(_base_differs, every)),
        metrics=metrics,
        scores=scores,
    )


def as_document(found: StudyComparison) -> Document:
    """For `--json`."""
    return {
        "arms": [list(pair) for pair in found.arms],
        "runs": found.runs,
        "items": found.items,
        "base_differs": found.base_differs,
        "metrics": [
            {
                "arm": one.arm,
                "metric": one.metric,
                "a": one.a,
                "b": one.b,
                "difference": one.difference.as_json(),
                "verdict": one.verdict,
                "seeds_needed": one.seeds_needed,
            }
            for one in found.metrics
        ],
        "scores": [
            {
                "arm": one.arm,
                "subject": one.subject,
                "measure": one.measure,
                "a": one.a,
                "b": one.b,
                "difference": one.difference.as_json(),
                "lost": None if one.flips is None else one.flips.lost,
                "gained": None if one.flips is None else one.flips.gained,
                "verdict": one.verdict,
                "seeds_needed": one.seeds_needed,
            }
            for one in found.scores
        ],
    }


def _arms(runs_a: Sequence[MeasuredRun], runs_b: Sequence[MeasuredRun], named: tuple[str, str] | None) -> list[tuple[str, str]]:
    in_a, in_b = (list(dict.fromkeys(run.name.arm for run in runs)) for runs in (runs_a, runs_b))
    if named is None:
        shared = [(arm, arm) for arm in in_a if arm in in_b]
        if not shared:
            raise InputError(
                f"the two have no arm in common: {', '.join(in_a) or 'none'} in A, {', '.join(in_b) or 'none'} in B; "
                "--arms A_ARM B_ARM compares arms of different names"
            )
        return shared
    for arm, there, side in ((named[0], in_a, "A"), (named[1], in_b, "B")):
        if arm not in there:
            raise InputError(f"{side} has no arm {arm}: it has {', '.join(there) or 'none'}")
    return [named]


def _pairs(runs_a: Sequence[MeasuredRun], runs_b: Sequence[MeasuredRun], arm_a: str, arm_b: str) -> list[Pair]:
    of_b = {(run.name.order, run.name.seed): run for run in runs_b if run.name.arm == arm_b}
    return [(run, of_b[key]) for run in runs_a if run.name.arm == arm_a and (key := (run.name.order, run.name.seed)) in of_b]


def _metrics(name: str, pairs: Sequence[Pair], runs_a: Sequence[MeasuredRun], runs_b: Sequence[MeasuredRun]) -> Iterator[ComparedMetric]:
    """Of the paired runs alone; the other arms only stand beside them."""
    if not pairs:
        return
    by_side = []
    for side, runs in enumerate((runs_a, runs_b)):
        arm, paired = pairs[0][side].name.arm, [pair[side] for pair in pairs]
        by_side.append(metrics_by_arm(paired, beside=[run for run in runs if run.name.arm != arm])[arm])
    for key in by_side[0]:
        if key in by_side[1]:
            a, b = by_side[0][key].by_run, by_side[1][key].by_run
            shared = [run for run in a if run in b]
            if shared:
                differences = list(seed_means({run: b[run] - a[run] for run in shared}).values())
                found = estimate(differences)
                yield ComparedMetric(
                    arm=name,
                    metric=key,
                    a=fmean(seed_means({run: a[run] for run in shared}).values()),
                    b=fmean(seed_means({run: b[run] for run in shared}).values()),
                    difference=found,
                    verdict=_verdict(found, METRIC[key].better),
                    seeds_needed=_needed(differences, found),
                )


def _scores(name: str, pairs: Sequence[Pair]) -> Iterator[ComparedScore]:
    for measure, subject in dict.fromkeys(place for pair in pairs for place in _places(pair)):
        items = [(pair[0].name.seed, shared) for pair in pairs if (shared := _shared(pair, measure, subject))]
        by_seed: dict[int, list[float]] = {}
        for seed, shared in items:
            by_seed.setdefault(seed, []).append(fmean(b - a for a, b in shared.values()))
        differences = [fmean(found) for found in by_seed.values()]
        found = estimate(differences) if len(items) > 1 else _over_items(measure, items[0][1].values())
        assert found is not None
        scores = [score for _, shared in items for score in shared.values()]
        better = BETTER.get(measure, "higher")
        yield ComparedScore(
            arm=name,
            subject=subject,
            measure=measure,
            a=fmean(a for a, _ in scores),
            b=fmean(b for _, b in scores),
            difference=found,
            flips=_flips(scores) if better == "higher" else None,
            verdict=_verdict(found, better),
            seeds_needed=_needed(differences, found),
        )


def _over_items(measure: str, scores: Collection[tuple[float, float]]) -> MeanEstimate | None:
    most = 1.0 if is_score(measure, (score for pair in scores for score in pair)) else inf
    return estimate_over_items([[b - a for a, b in scores]], least=-most, most=most)


def _places(pair: Pair) -> list[tuple[str, str]]:
    """Measure and subject of what both runs scored at their ends; the measures that metrics read come first."""
    a, b = pair
    measures = sorted(set(a.books) & set(b.books) - {MAIN}, key=lambda measure: (measure not in MAIN_MEASURES, measure))
    places = [(measure, subject) for measure in measures for subject in a.books[measure].matrix.subjects()]
    return [(measure, subject) for measure, subject in places if _shared(pair, measure, subject)]


def _shared(pair: Pair, measure: str, subject: str, stage: int | None = None) -> dict[str, tuple[float, float]]:
    """The scores of A and B by item, after a stage or at the end of each, of the items that both have."""
    books = [book for run in pair if (book := run.book(measure)) is not None]
    if len(books) < 2:
        return {}
    a, b = (book.items.get((book.matrix.stages if stage is None else stage, subject), {}) for book in books)
    return {item: (a[item], b[item]) for item in a if item in b}


def _base_differs(pair: Pair) -> int:
    return sum(a != b for measure, subject in _places(pair) for a, b in _shared(pair, measure, subject, BASE).values())


def _flips(scores: Sequence[tuple[float, float]]) -> FlipCounts:
    a, b = ({str(n): score[side] for n, score in enumerate(scores)} for side in (0, 1))
    return count_flips(a, b)


def _verdict(found: MeanEstimate, better: Better) -> Verdict:
    if found.low is None or found.high is None or found.low <= 0 <= found.high:
        return "not shown"
    if better == "neither":
        return "differs"
    return "better" if (found.value > 0) == (better == "higher") else "worse"


def _needed(differences: Sequence[float], found: MeanEstimate) -> int | None:
    shown = found.low is not None and found.high is not None and not found.low <= 0 <= found.high
    if shown or not varies(differences):
        return None
    return seeds_needed(stdev(differences), abs(found.value), level=(1 + LEVEL) / 2)
