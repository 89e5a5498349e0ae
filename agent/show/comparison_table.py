"""Two studies side by side, on a terminal."""

from __future__ import annotations

import click

from perdure.agent.metrics.measured_run import MAIN_MEASURES
from perdure.agent.metrics.metric_table import METRIC
from perdure.agent.metrics.seed_intervals import MeanEstimate
from perdure.agent.show.terminal import Cell, print_table
from perdure.agent.studies.report.comparison import StudyComparison
from perdure.agent.studies.report.report_numbers import digits_of, interval, n_of, number

MAIN_METRICS = (
    "gain",
    "drop",
    "panel_drop",
    "acc",
    "bwt",
    "fwt",
    "forgetting_first",
    "retention",
    "recall",
    "kl_new",
    "updates",
    "seconds",
)
MEASURES = (*MAIN_MEASURES, "cross_entropy")

ABOUT = """B is better or worse if the whole interval is on one side of 0: by chance alone that is so of one row in twenty.
Seeds needed: so that an interval shows a difference as large as the one found, four times in five. A smaller difference needs more."""


def print_comparison(found: StudyComparison, *, show_all: bool) -> None:
    """The usual metrics and measures, or all of them."""
    click.echo(f"{found.runs} runs and {found.items} scored items in common")
    if found.base_differs:
        click.echo(f"{found.base_differs} of them differ with the base model already: not only the arms differ")
    rows: list[tuple[Cell, ...]] = []
    for one in found.metrics:
        if show_all or one.metric in MAIN_METRICS:
            metric = METRIC[one.metric]
            rows.append((one.arm, metric.name, *_numbers(one.a, one.b, one.difference, digits_of(metric)), one.verdict, one.seeds_needed))
    for score in found.scores:
        if show_all or score.measure in MEASURES:
            what = f"{score.subject} ({score.measure})"
            rows.append((score.arm, what, *_numbers(score.a, score.b, score.difference, 3), score.verdict, score.seeds_needed))
    print_table(("arm", "what", "A", "B", "B - A", "95 % interval", "of", "B is", "seeds needed"), rows)
    click.echo(ABOUT)


def _numbers(a: float, b: float, difference: MeanEstimate, digits: int) -> tuple[Cell, ...]:
    return (
        number(a, digits=digits),
        number(b, digits=digits),
        number(difference.value, signed=True, digits=digits),
        interval(difference, signed=True, digits=digits) or "-",
        n_of(difference),
    )
