"""How far a run moved from the base, in KL, against how much it forgot: every check of every run is a point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import StatisticsError, correlation
from typing import TYPE_CHECKING

from perdure.agent.metrics.formulas.accuracy import mean_of
from perdure.agent.metrics.formulas.costs import REFUSED
from perdure.agent.metrics.measured_run import MeasuredRun, ScoreBook
from perdure.agent.metrics.observation import BASE
from perdure.agent.studies.report.html_parts import NOTHING, Html, details, figure, heading, join, paragraph, plots, section, table, text
from perdure.agent.studies.report.report_data import ReportData, over_seeds, stream_of
from perdure.agent.studies.report.report_numbers import estimate_html, number
from perdure.agent.studies.report.report_style import stand_in
from perdure.agent.studies.report.sections.arm_legend import arm_legend
from perdure.agent.studies.report.sections.curve_paths import score_measures
from perdure.agent.studies.report.svg_panel import svg_panel, tell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = {"kl_new": "KL from the base on new prompts", "kl_old": "KL from the base on old prompts"}
FEWEST_POINTS = 3
"""For a correlation."""

Check = tuple[int, int | None]
"""Stage, and update within it; None for its end."""
Points = Sequence[tuple[float, float]]
"""KL and drop at each check of a run."""
SeedPoints = tuple[int, Points]


def divergence_section(data: ReportData, *, with_plots: bool) -> Html:
    """Empty if no run has a KL and a drop at one check."""
    parts = [_of_stream(data, stream, number, with_plots) for number, stream in enumerate(data.streams)]
    about = paragraph(
        "Each point is a check of a run: KL(policy || base) in nats a token, and the drop there, the mean loss over the environments "
        "that are never learned. RL's Razor (2509.04259) predicts forgetting from KL on new prompts; in 2510.18874, table 2, r is .52."
    )
    return section("divergence", "KL against forgetting", about, *parts) if any(parts) else NOTHING


def _of_stream(data: ReportData, stream: str, place: int, with_plots: bool) -> Html:
    runs = [run for run in data.runs if stream_of(run) == stream]
    drawn, tables = [], []
    for measure, name in MEASURES.items():
        scores = _most_points(runs, measure)
        by_arm: dict[str, list[SeedPoints]] = {}
        for run in runs:
            points = points_of(run, measure, scores)
            if points:
                by_arm.setdefault(run.name.arm, []).append((run.name.seed, points))
        if not by_arm:
            continue
        tables.append(_table(by_arm, name))
        if with_plots:
            says = f"{name} against drop: {_pooled(by_arm)}"
            svg = svg_panel(f"divergence-{place}-{measure}", _drawing(data, by_arm, name))
            drawn.append(figure(Html(svg), says=says, caption=f"{says}. Checks of one run depend on each other: r has no interval here."))
    if not tables:
        return NOTHING
    legend = join(arm_legend(data, data.arms_of(stream)), plots(drawn)) if drawn else NOTHING
    return join(heading(stream) if len(data.streams) > 1 else NOTHING, legend, *tables)


def _most_points(runs: Sequence[MeasuredRun], measure: str) -> str:
    """The measure with a drop at most of the checks that have this KL: the main one, or one on dev tasks."""
    return max(score_measures(runs), key=lambda scores: sum(len(points_of(run, measure, scores)) for run in runs))


def points_of(run: MeasuredRun, measure: str, scores: str) -> list[tuple[float, float]]:
    """The mean KL over subjects, and the mean drop over environments that are never learned, at each check that has both.

    The check of the last update of a stage is its end. The end of a stage that the gate refused is no point: KL was measured of the
    candidate, and the scores are of the version that serves on.
    """
    kl_book, book = run.book(measure), run.book(scores)
    if kl_book is None or book is None:
        return []
    moved, lost = _mean_at_checks(kl_book, _as_it_is), _mean_at_checks(book, _drop)
    refused = {(fact.stage, None) for fact in run.facts if fact.verdict in REFUSED}
    return [(moved[check], lost[check]) for check in moved if check in lost and check not in refused]


def _mean_at_checks(book: ScoreBook, read: Callable[[ScoreBook, str, float], float | None]) -> dict[Check, float]:
    """The mean over subjects at each check after the base, of those that `read` gives a number for."""
    found: dict[Check, list[float | None]] = {}
    for (stage, subject), score in book.matrix.scores.items():
        if stage != BASE:
            found.setdefault((stage, None), []).append(read(book, subject, score))
    for (stage, subject), points in book.curves.items():
        for update, score in points:
            is_end = update == book.updates.get(stage)
            if not (is_end and (stage, subject) in book.matrix.scores):
                found.setdefault((stage, None if is_end else update), []).append(read(book, subject, score))
    means = {check: mean_of(values) for check, values in found.items()}
    return {check: mean for check, mean in means.items() if mean is not None}


def _as_it_is(book: ScoreBook, subject: str, score: float) -> float | None:
    return score


def _drop(book: ScoreBook, subject: str, score: float) -> float | None:
    base = book.matrix.at(BASE, subject)
    return None if base is None or not book.matrix.is_non_target(subject) else base - score


def pearson(points: Points) -> float | None:
    """None with fewer than three points, or if one side never changes."""
    if len(points) < FEWEST_POINTS:
        return None
    try:
        return correlation([x for x, _ in points], [y for _, y in points])
    except StatisticsError:
        return None


def _pooled(by_arm: Mapping[str, Sequence[SeedPoints]]) -> str:
    of_runs = [points for of_arm in by_arm.values() for _, points in of_arm]
    every = [point for points in of_runs for point in points]
    r = pearson(every)
    return f"{len(every)} checks of {len(of_runs)} runs" + ("" if r is None else f", r {number(r)}")


def _table(by_arm: Mapping[str, Sequence[SeedPoints]], name: str) -> Html:
    """The last check of each run, and the correlation within runs, which no difference between runs makes up."""
    columns = ["arm", "KL at the last check", "drop there", "r within a run, mean", "checks"]
    rows = []
    for arm, of_runs in by_arm.items():
        within = [(seed, r) for seed, points in of_runs if (r := pearson(points)) is not None]
        rows.append(
            [
                text(arm),
                estimate_html(over_seeds((seed, points[-1][0]) for seed, points in of_runs), digits=4),
                estimate_html(over_seeds((seed, points[-1][1]) for seed, points in of_runs), signed=True, digits=3),
                estimate_html(over_seeds(within)),
                text(sum(len(points) for _, points in of_runs)),
            ]
        )
    return details(f"Numbers: {name}", table(columns, rows, numbers=columns[1:], caption=f"{name}; over all: {_pooled(by_arm)}"))


def _drawing(data: ReportData, by_arm: Mapping[str, Sequence[SeedPoints]], name: str) -> Callable[[Axes], None]:
    def draw(axis: Axes) -> None:
        axis.set_xlabel(f"{name}, nats a token")
        axis.set_ylabel("drop (lower is better)")
        axis.axhline(0, color=stand_in("muted"), linewidth=0.8)
        for arm, of_runs in by_arm.items():
            look = data.look(arm)
            every = [point for _, points in of_runs for point in points]
            (marks,) = axis.plot(
                [x for x, _ in every],
                [y for _, y in every],
                color=look.colour,
                marker=look.marker,
                markersize=4,
                alpha=0.7,
                linestyle="none",
            )
            tell(marks, f"{arm}: {len(every)} checks of {len(of_runs)} runs")

    return draw
