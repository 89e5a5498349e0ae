"""How well one run was measured: every metric with an interval over its items, by drawing the items anew.

An item is drawn with its scores at all stages and under all measures, so that what is common to them stays common. The interval says how
much other tasks of the same kind would have changed the number, and nothing about another run; maxima (forgetting from the best, drawdown)
come out too high in it, as in the number itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean

from perdure.agent.metrics.measured_run import MAIN, MeasuredRun, ScoreBook
from perdure.agent.metrics.metric import Metric
from perdure.agent.metrics.metric_table import METRIC, METRICS, run_metrics
from perdure.agent.metrics.seed_intervals import LEVEL, MeanEstimate

DRAWS = 200
DRAW_SEED = 18
READ = (MAIN, "choice", "strict", "cued", "confidence")
"""The measures of the metrics that get an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricOfRun:
    """One metric of one run, over items."""

    estimate: MeanEstimate
    bound: float | None
    """One-sided, 95 %: not worse than this. None without an interval."""


Drawn = Mapping[str, Mapping[str, Sequence[str]]]
"""By subject: the items that were drawn, each with a name for every time."""


def metrics_over_items(run: MeasuredRun) -> dict[str, MetricOfRun]:
    """Every metric that the run has, by key. Only scores and shares have an interval."""
    values = {key: value for key, value in run_metrics(run).items() if value is not None}
    varied = [metric for metric in METRICS if metric.key in values and _is_of_items(metric)]
    rng, found = Random(DRAW_SEED), {metric.key: list[float]() for metric in varied}
    universe = _items(run)
    for _ in range(DRAWS):
        for key, value in run_metrics(_redrawn(run, _draw(universe, rng)), metrics=varied).items():
            if value is not None:
                found[key].append(value)
    n = sum(map(len, universe.values()))
    return {key: _over_draws(METRIC[key], value, found.get(key, []), n) for key, value in values.items()}


def _is_of_items(metric: Metric) -> bool:
    """The bias by chance is a mean over shuffles of the items already."""
    return metric.unit in ("score", "share") and metric.better != "neither"


def _over_draws(metric: Metric, value: float, drawn: list[float], n: int) -> MetricOfRun:
    """The quantiles of the draws. No interval if a draw lacked what the metric needs."""
    if len(drawn) < DRAWS or n < 2:
        return MetricOfRun(estimate=MeanEstimate(value=value, low=None, high=None, n=n, of="items"), bound=None)
    in_order = sorted(drawn)
    outside, one_side = round(DRAWS * (1 - LEVEL) / 2), round(DRAWS * (1 - LEVEL))
    found = MeanEstimate(value=value, low=in_order[outside], high=in_order[-1 - outside], n=n, of="items", method="bootstrap")
    return MetricOfRun(estimate=found, bound=in_order[one_side] if metric.better == "higher" else in_order[-1 - one_side])


def _items(run: MeasuredRun) -> dict[str, list[str]]:
    """All items of each subject, under any measure."""
    found: dict[str, dict[str, None]] = {}
    for book in run.books.values():
        for (_, subject), items in book.items.items():
            found.setdefault(subject, {}).update(dict.fromkeys(items))
    return {subject: list(items) for subject, items in found.items()}


def _draw(universe: Mapping[str, list[str]], rng: Random) -> Drawn:
    drawn: dict[str, dict[str, list[str]]] = {}
    for subject, items in universe.items():
        names: dict[str, list[str]] = {}
        for n, item in enumerate(rng.choices(items, k=len(items))):
            names.setdefault(item, []).append(str(n))
        drawn[subject] = names
    return drawn


def _redrawn(run: MeasuredRun, drawn: Drawn) -> MeasuredRun:
    return replace(run, books={measure: _redrawn_book(book, drawn) for measure, book in run.books.items() if measure in READ})


def _redrawn_book(book: ScoreBook, drawn: Drawn) -> ScoreBook:
    """A copy whose items stand as often as they were drawn, under the names that `_draw` gives them."""
    items, answers = {}, {}
    for place, scores in book.items.items():
        of_subject = drawn[place[1]]
        kept = [(name, item) for item in scores for name in of_subject.get(item, ())]
        if kept:
            given = book.answers[place]
            items[place] = {name: scores[item] for name, item in kept}
            answers[place] = {name: given[item] for name, item in kept}
    means = {place: fmean(found.values()) for place, found in items.items()}
    return replace(book, items=items, answers=answers, matrix=replace(book.matrix, scores=means))
