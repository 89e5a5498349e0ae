"""Curves over a stream: the means over targets and over all else, then every subject, with the stages that learned it shaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from perdure.agent.metrics.measured_run import MAIN, MeasuredRun
from perdure.agent.metrics.seed_intervals import MeanEstimate
from perdure.agent.show.short_names import short_names
from perdure.agent.studies.report.html_parts import (
    NOTHING,
    Html,
    details,
    figure,
    heading,
    join,
    paragraph,
    plots,
    section,
    table,
    text,
)
from perdure.agent.studies.report.report_data import ReportData, stream_of, subjects_of
from perdure.agent.studies.report.report_numbers import estimate_html, estimate_text, number
from perdure.agent.studies.report.report_style import SERIES, stand_in
from perdure.agent.studies.report.sections.arm_legend import arm_legend
from perdure.agent.studies.report.sections.curve_paths import (
    Path,
    along,
    curve_measure,
    is_one_stage,
    path_of_mean,
    path_of_subject,
)
from perdure.agent.studies.report.svg_panel import svg_panel, tell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 60
"""Of one stream; further subjects have their numbers in the matrix."""
Curves = Mapping[str, Mapping[float, MeanEstimate]]
"""By arm and place."""


def curve_section(data: ReportData, *, with_plots: bool) -> Html:
    """Empty if no run has two points, or without plots: the matrix has the numbers."""
    parts = [_of_stream(data, stream, number) for number, stream in enumerate(data.streams)] if with_plots else []
    return section("curves", "Scores along the way", *parts) if any(parts) else NOTHING


def _of_stream(data: ReportData, stream: str, number: int) -> Html:
    runs = [run for run in data.runs if stream_of(run) == stream]
    by_update = is_one_stage(runs)
    subjects = subjects_of(runs)
    targets = [subject for subject in subjects if any(subject in run.main.matrix.learned for run in runs)]
    others = [subject for subject in subjects if subject not in targets]
    skills = frozenset(skill for run in runs for skill in run.main.matrix.skills)
    kept_aside = [subject for subject in others if subject not in skills]
    arms = data.arms_of(stream)
    panels = _Panels(data=data, stream=stream, prefix=f"curve-{number}", by_update=by_update)

    measures = {subject: curve_measure(runs, [subject]) for subject in subjects}

    def mean_over(chosen: Sequence[str]) -> Callable[[MeasuredRun], Path]:
        return lambda run: path_of_mean(run, chosen, curve_measure(runs, chosen), by_update=by_update)

    def of_subject(subject: str) -> Callable[[MeasuredRun], Path]:
        return lambda run: path_of_subject(run, subject, measures[subject], by_update=by_update)

    means = [
        *panels.draw("all that is learned, mean", runs, mean_over(targets)),
        *(panels.draw("environments never learned, mean", runs, mean_over(kept_aside)) if kept_aside else ()),
    ]
    if not means:
        return NOTHING
    names = short_names(subjects)
    by_order = {order: [run for run in runs if run.name.order == order] for order in dict.fromkeys(run.name.order for run in runs)}
    parts = [
        heading(stream) if len(data.streams) > 1 else NOTHING,
        paragraph(_about(by_update, [subject for subject in subjects if measures[subject] != MAIN])),
        arm_legend(data, arms),
        plots(means),
    ]
    for order, of_order in by_order.items():
        drawn = [
            panel
            for subject in targets
            for panel in panels.draw(names[subject], of_order, of_subject(subject), shaded=[] if by_update else _stages(of_order, subject))
        ]
        title = "What is learned" if len(by_order) == 1 else f"What is learned, {order}"
        parts.append(join(heading(title), plots(drawn)) if order == next(iter(by_order)) else details(title, plots(drawn)))
    rest = [panel for subject in others for panel in panels.draw(names[subject], runs, of_subject(subject))]
    if rest:
        parts += [heading("What is never learned"), plots(rest)]
    if panels.left_out:
        parts.append(paragraph(f"Not drawn, to keep the page short: {', '.join(dict.fromkeys(panels.left_out))}.", "muted"))
    return join(*parts)


class _Panels:
    """Draws panels of one stream, each with a name of its own, up to `MOST_PANELS`."""

    def __init__(self, *, data: ReportData, stream: str, prefix: str, by_update: bool) -> None:
        self.left_out: list[str] = []
        self._data = data
        self._arms = data.arms_of(stream)
        self._prefix = prefix
        self._by_update = by_update
        self._drawn = 0

    def draw(self, title: str, runs: Sequence[MeasuredRun], path: Callable[[MeasuredRun], Path], shaded: Sequence[int] = ()) -> list[Html]:
        """A panel for every eight arms; none if no arm has two points."""
        found = {arm: along([run for run in runs if run.name.arm == arm], path) for arm in self._arms}
        found = {arm: curve for arm, curve in found.items() if len(curve) > 1}
        drawn = []
        for first in range(0, len(found), len(SERIES)):
            some = dict(list(found.items())[first : first + len(SERIES)])
            if self._drawn >= MOST_PANELS:
                self.left_out.append(title)
                break
            self._drawn += 1
            svg = svg_panel(f"{self._prefix}-{self._drawn}", self._drawing(title, some, shaded))
            ends = "; ".join(f"{arm} {estimate_text(list(curve.values())[-1])}" for arm, curve in some.items())
            numbers = details("Numbers", self._numbers(some))
            drawn.append(figure(Html(svg), says=f"{title}, at the end: {ends}", numbers=numbers))
        return drawn

    def _drawing(self, title: str, curves: Curves, shaded: Sequence[int]) -> Callable[[Axes], None]:
        def draw(axis: Axes) -> None:
            axis.set_title(title)
            axis.set_xlabel("updates" if self._by_update else "stage")
            axis.xaxis.get_major_locator().set_params(integer=True)
            for stage in shaded:
                axis.axvspan(stage - 1, stage, color=stand_in("muted"), alpha=0.16, linewidth=0)
            for arm, curve in curves.items():
                look = self._data.look(arm)
                places, found = list(curve), list(curve.values())
                if any(one.low is not None for one in found):
                    low = [one.value if one.low is None else one.low for one in found]
                    high = [one.value if one.high is None else one.high for one in found]
                    axis.fill_between(places, low, high, color=look.colour, alpha=0.14, linewidth=0)
                (line,) = axis.plot(
                    places,
                    [one.value for one in found],
                    color=look.colour,
                    linestyle=look.dash,
                    marker=look.marker,
                    markersize=3.5,
                    linewidth=1.4,
                )
                tell(line, f"{arm}: {estimate_text(found[0])} at first, {estimate_text(found[-1])} at the end")
            low, high = axis.get_ylim()
            axis.set_ylim(max(-0.02, low), min(1.02, high))

        return draw

    def _numbers(self, curves: Curves) -> Html:
        places = sorted({place for curve in curves.values() for place in curve})
        columns = ["updates" if self._by_update else "stages", *curves]
        rows = [
            [text(number(place, digits=0 if place == int(place) else 2)), *(estimate_html(curve.get(place)) for curve in curves.values())]
            for place in places
        ]
        return table(columns, rows, numbers=columns[1:])


def _stages(runs: Sequence[MeasuredRun], subject: str) -> list[int]:
    """The stages that learn a subject."""
    return sorted({fact.stage for run in runs for fact in run.facts if subject in fact.targets})


def _about(by_update: bool, on_dev: Sequence[str]) -> str:
    scale = "by updates" if by_update else "after each stage, with the checks within it; shaded stages learn the subject"
    tasks = f" Of {len(on_dev)} subjects the scores are of dev tasks, which chose rates and checkpoints." if on_dev else ""
    return f"Means over seeds {scale}. Bands are 95 % intervals over seeds; without a band there is one seed.{tasks}"
