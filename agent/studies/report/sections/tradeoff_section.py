"""What was gained against what it cost elsewhere, for each arm: at the end, on the way, and at matched gain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from perdure.agent.metrics.arm_summary import MetricOfArm
from perdure.agent.metrics.formulas.gain_and_drop import Tradeoff, drop_at_gain, tradeoff_curve
from perdure.agent.metrics.measured_run import MeasuredRun
from perdure.agent.metrics.metric_table import METRIC
from perdure.agent.metrics.seed_intervals import MeanEstimate
from perdure.agent.studies.report.html_parts import NOTHING, Html, beside, figure, heading, join, marked, paragraph, section, table, text
from perdure.agent.studies.report.report_data import ArmMetrics, ReportData, over_seeds, stream_of, subjects_of
from perdure.agent.studies.report.report_numbers import estimate_html, estimate_text, number
from perdure.agent.studies.report.report_style import stand_in
from perdure.agent.studies.report.sections.arm_legend import arm_legend
from perdure.agent.studies.report.sections.curve_paths import curve_measure, is_one_stage
from perdure.agent.studies.report.sections.stated_gain import StatedGain, stated_gain
from perdure.agent.studies.report.svg_panel import svg_panel, tell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAIRS = (("gain", "drop"), ("learned", "forgetting_first"))
"""What is gained, and what it costs; the second only over several stages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _ArmPoint:
    """Where an arm ends."""

    x: MeanEstimate
    y: MeanEstimate
    seeds: Sequence[tuple[float, float]]
    path: Sequence[Tradeoff] = ()
    """On the way, mean over its runs."""


def tradeoff_section(data: ReportData, metrics: Mapping[str, ArmMetrics], *, with_plots: bool) -> Html:
    """Empty if no run has both a target and something that is not learned. `metrics` are those of each stream."""
    parts = [_of_stream(data, stream, metrics[stream], number, with_plots) for number, stream in enumerate(data.streams)]
    return section("tradeoff", "Gain against drop", *parts) if any(parts) else NOTHING


def _of_stream(data: ReportData, stream: str, metrics: ArmMetrics, place: int, with_plots: bool) -> Html:
    runs = [run for run in data.runs if stream_of(run) == stream]
    checked = curve_measure(runs, subjects_of(runs)) if is_one_stage(runs) else None
    stated = stated_gain(data.study.summary, stream)
    parts: list[Html] = []
    for x, y in PAIRS:
        is_first = (x, y) == PAIRS[0]
        found = {
            arm: _point(metrics[arm], x, y, stated.pilots.get(arm) or _mean_path(data.of(stream, arm), checked) if is_first else ())
            for arm in data.arms_of(stream)
        }
        points = {arm: point for arm, point in found.items() if point is not None}
        if not points:
            continue
        wanted = stated if is_first and checked is not None else None
        numbers = _table(data, stream, points, x, y, wanted, checked)
        if with_plots:
            svg = svg_panel(f"tradeoff-{place}-{x}", _drawing(data, points, METRIC[x].name, METRIC[y].name, wanted), height_inches=3.0)
            plot = figure(Html(svg), says=_words(points, x, y), caption=_caption(points, wanted))
            parts += [arm_legend(data, list(points)), beside(plot, numbers)]
        else:
            parts.append(numbers)
    if not parts:
        return NOTHING
    return join(heading(stream) if len(data.streams) > 1 else NOTHING, *parts)


def _point(metrics: Mapping[str, MetricOfArm], x: str, y: str, path: Sequence[Tradeoff]) -> _ArmPoint | None:
    if x not in metrics or y not in metrics:
        return None
    xs, ys = metrics[x].by_seed, metrics[y].by_seed
    return _ArmPoint(x=metrics[x].estimate, y=metrics[y].estimate, seeds=[(xs[seed], ys[seed]) for seed in xs if seed in ys], path=path)


def _mean_path(runs: Sequence[MeasuredRun], measure: str | None) -> list[Tradeoff]:
    """Gain and drop at each check, over the checks that all runs have in this order; empty for several stages."""
    if measure is None:
        return []
    curves = [tradeoff_curve(book) for run in runs if (book := run.book(measure)) is not None]
    curves = [curve for curve in curves if curve]
    shortest = min(map(len, curves), default=0)
    return [Tradeoff(fmean(curve[n].gain for curve in curves), fmean(curve[n].drop for curve in curves)) for n in range(shortest)]


def _drawing(
    data: ReportData, points: Mapping[str, _ArmPoint], x_name: str, y_name: str, stated: StatedGain | None
) -> Callable[[Axes], None]:
    def draw(axis: Axes) -> None:
        axis.set_xlabel(f"{x_name} →")
        axis.set_ylabel(f"← {y_name}")
        axis.axhline(0, color=stand_in("muted"), linewidth=0.8)
        if stated is not None and stated.gain is not None:
            line = axis.axvline(stated.gain, color=stand_in("muted"), linewidth=0.8, linestyle="--")
            tell(line, f"matched gain {number(stated.gain)}")
        for arm, point in points.items():
            look = data.look(arm)
            if len(point.path) > 1:
                axis.plot([at.gain for at in point.path], [at.drop for at in point.path], color=look.colour, linewidth=0.9, alpha=0.55)
            for x, y in point.seeds if len(point.seeds) > 1 else ():
                axis.plot([x], [y], color=look.colour, marker=look.marker, markersize=2.5, alpha=0.5, linestyle="none")
            whiskers = {"color": look.colour, "linewidth": 0.9, "alpha": 0.8}
            if point.x.low is not None and point.x.high is not None:
                axis.plot([point.x.low, point.x.high], [point.y.value] * 2, **whiskers)
            if point.y.low is not None and point.y.high is not None:
                axis.plot([point.x.value] * 2, [point.y.low, point.y.high], **whiskers)
            (mark,) = axis.plot([point.x.value], [point.y.value], color=look.colour, marker=look.marker, markersize=7, linestyle="none")
            tell(mark, f"{arm}: {x_name} {estimate_text(point.x)}, {y_name} {estimate_text(point.y)}")

    return draw


def _table(
    data: ReportData, stream: str, points: Mapping[str, _ArmPoint], x: str, y: str, stated: StatedGain | None, checked: str | None
) -> Html:
    columns = ["arm", METRIC[x].name, METRIC[y].name]
    rows = [[text(arm), estimate_html(point.x, signed=True), estimate_html(point.y, signed=True)] for arm, point in points.items()]
    if stated is not None and stated.gain is not None and stated.reached:
        columns.append(f"runs that reach {number(stated.gain)}")
        for row, arm in zip(rows, points, strict=True):
            there, of = stated.reached.get(arm, (0, 0))
            left_out = marked("not comparable", "bad") if arm in stated.left_out else NOTHING
            row.append(join(text(f"{there} of {of} "), left_out))
    elif stated is not None and stated.gain is not None and checked is not None:
        columns += [f"drop where the gain is {number(stated.gain)}", "runs that reach it"]
        for row, arm in zip(rows, points, strict=True):
            own = data.of(stream, arm)
            books = [(run.name.seed, book) for run in own if (book := run.book(checked)) is not None]
            drops = [(seed, found) for seed, book in books if (found := drop_at_gain(tradeoff_curve(book), stated.gain)) is not None]
            row += [estimate_html(over_seeds(drops), signed=True), text(f"{len(drops)} of {len(own)}")]
    caption = ". ".join(f"{METRIC[key].name}: {METRIC[key].formula}" for key in (x, y))
    shown = table(columns, rows, numbers=columns[1:], caption=caption)
    away = stated.left_out if stated is not None else {}
    return join(shown, *(paragraph(f"{arm} is not comparable: {why}.", "muted") for arm, why in away.items()))


def _caption(points: Mapping[str, _ArmPoint], stated: StatedGain | None) -> str:
    lines = ["Large marks are means over seeds with their 95 % intervals, small ones are seeds; to the right and low is better."]
    if any(point.path for point in points.values()):
        piloted = stated is not None and stated.pilots
        lines.append(
            "A line is the way there, " + ("by the pilots at the chosen rate, on dev tasks." if piloted else "from the base at 0.")
        )
    if stated is not None and stated.gain is not None:
        lines.append("The dashed line is the matched gain: arms are compared there, since one that learns more forgets more.")
        if stated.reached:
            lines.append("Of the two checkpoints around it on dev tasks each run delivers the nearer one.")
    return " ".join(lines)


def _words(points: Mapping[str, _ArmPoint], x: str, y: str) -> str:
    ends = (f"{arm}: {METRIC[x].name} {estimate_text(point.x)}, {METRIC[y].name} {estimate_text(point.y)}" for arm, point in points.items())
    return "; ".join(ends)
