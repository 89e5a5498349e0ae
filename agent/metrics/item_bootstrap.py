"""How well one run was measured: every metric with an interval over its items, by drawing the items anew.

An item is drawn with its scores at all stages and under all measures, so that what is common to them stays common. The interval says how
much other tasks of the same kind would have changed the number, and nothing about another run; maxima (forgetting from the best, drawdown)
come out too high in it, as in the number itself. The checks of curves are not drawn anew, so that metrics of curves have no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from perdure.agent.metrics.item_draws import ItemDraws, draw_items, drawn_book, drawn_flips, drawn_means
from perdure.agent.metrics.measured_run import MAIN, MeasuredRun, Place
from perdure.agent.metrics.metric import Metric
from perdure.agent.metrics.metric_table import METRIC, METRICS, run_metrics
from perdure.agent.metrics.noted_reads import Reads, noting
from perdure.agent.metrics.run_readings import RunsBeside, flip_subjects
from perdure.agent.metrics.seed_intervals import LEVEL, MeanEstimate

DRAWS = 200
READ = (MAIN, "choice", "strict", "cued", "confidence")
"""The measures of the metrics that get an interval."""
Values = list[float | None]
"""Of one metric, in each draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricOfRun:
    """One metric of one run, over the items that it reads."""

    estimate: MeanEstimate
    bound: float | None
    """One-sided, 95 %: not worse than this. None without an interval."""


def metrics_over_items(run: MeasuredRun) -> dict[str, MetricOfRun]:
    """Every metric that the run has, by key. Only scores and shares have an interval."""
    values: dict[str, float] = {}
    read: dict[str, Reads] = {}
    for metric in METRICS:
        noted, reads = noting(run)
        value = metric.of_run(noted, RunsBeside())
        if value is not None:
            values[metric.key], read[metric.key] = value, reads
    varied = [METRIC[key] for key, reads in read.items() if _is_of_items(METRIC[key]) and not reads.has_curves and len(reads.items) > 1]
    books = [book for measure in READ if (book := run.book(measure)) is not None]
    draws = draw_items(books, DRAWS)
    drawn = {metric.key: _of_flips(run, metric, draws) for metric in varied if metric.flips is not None}
    drawn |= _of_scores(run, [metric for metric in varied if metric.flips is None], read, draws)
    return {key: _over_draws(METRIC[key], value, drawn.get(key, []), len(read[key].items)) for key, value in values.items()}


def _is_of_items(metric: Metric) -> bool:
    """The biases by chance are means over draws already."""
    return metric.unit in ("score", "share") and metric.better != "neither"


def _of_flips(run: MeasuredRun, metric: Metric, draws: ItemDraws) -> Values:
    assert metric.flips is not None
    book = run.book(metric.flips.measure)
    assert book is not None, "the metric has a value"
    return [metric.flips.value(counts) for counts in drawn_flips(book, flip_subjects(run, metric.flips.measure), draws)]


def _of_scores(run: MeasuredRun, metrics: Sequence[Metric], read: Mapping[str, Reads], draws: ItemDraws) -> dict[str, Values]:
    """The metrics of a run whose means are drawn, and of the single items those that they look at."""
    books = {measure: book for measure in READ if (book := run.book(measure)) is not None}
    means = {measure: drawn_means(book, draws) for measure, book in books.items()}
    looked_at: dict[str, list[Place]] = {measure: [] for measure in books}
    for measure, place in {found for metric in metrics for found in read[metric.key].places}:
        looked_at[measure].append(place)
    found: dict[str, Values] = {metric.key: [] for metric in metrics}
    for draw in range(DRAWS):
        made = {}
        for measure, book in books.items():
            scores = {place: score for place, of_draws in means[measure].items() if (score := of_draws[draw]) is not None}
            made[measure] = drawn_book(book, scores, looked_at[measure], draws, draw)
        for key, value in run_metrics(replace(run, books=made), metrics=metrics).items():
            found[key].append(value)
    return found


def _over_draws(metric: Metric, value: float, drawn: Values, n: int) -> MetricOfRun:
    """The quantiles of the draws. No interval if a draw lacked what the metric needs, or if all draws are the same."""
    known = sorted(one for one in drawn if one is not None)
    if len(known) < DRAWS or known[0] == known[-1]:
        return MetricOfRun(estimate=MeanEstimate(value=value, low=None, high=None, n=n, of="items"), bound=None)
    outside, one_side = round(DRAWS * (1 - LEVEL) / 2), round(DRAWS * (1 - LEVEL))
    found = MeanEstimate(value=value, low=known[outside], high=known[-1 - outside], n=n, of="items", method="bootstrap")
    return MetricOfRun(estimate=found, bound=known[one_side] if metric.better == "higher" else known[-1 - one_side])
