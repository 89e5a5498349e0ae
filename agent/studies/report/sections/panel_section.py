"""The capability panel as bars: the base and every arm at its end, skill by skill, with the word FORGOTTEN where a limit is broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from perdure.agent.metrics.measured_run import MeasuredRun
from perdure.agent.metrics.observation import BASE
from perdure.agent.metrics.seed_intervals import MeanEstimate
from perdure.agent.show.panel_bars import FORGOTTEN
from perdure.agent.show.short_names import short_names
from perdure.agent.studies.report.html_parts import (
    NOTHING,
    Html,
    bar,
    bar_table,
    details,
    heading,
    join,
    marked,
    paragraph,
    section,
    table,
    text,
)
from perdure.agent.studies.report.report_data import ReportData, change, level, stream_of
from perdure.agent.studies.report.report_numbers import estimate_html
from perdure.learners.panel.panel_limits import limit_of
from perdure.memory.contracts.panel_results import Measure

MEASURES: tuple[Measure, ...] = ("choice", "cross_entropy")
SAMPLED = {"strict": "in the asked form", "lenient": "anywhere in the answer", "cued": "with an example in sight"}


def panel_section(data: ReportData) -> Html:
    """Empty if no run has scores of the panel."""
    parts = [_of_stream(data, stream) for stream in data.streams]
    if not any(parts):
        return NOTHING
    about = paragraph(
        "Mean probability of the right answer among those listed; for passages of text the cross-entropy in nats a token, where less is "
        f"better. {FORGOTTEN}: the mean over seeds is beyond the limit that a gate has for this skill. Lines are 95 % intervals."
    )
    return section("panel", "The capability panel", about, *parts)


def _of_stream(data: ReportData, stream: str) -> Html:
    runs = [run for run in data.runs if stream_of(run) == stream]
    tables, forms = [], []
    for measure in MEASURES:
        books = [book for run in runs if (book := run.book(measure)) is not None]
        skills = list(dict.fromkeys(subject for book in books for subject in book.matrix.subjects()))
        names = short_names(skills)
        for skill in skills:
            arms = {arm: own for arm in data.arms_of(stream) if level(own := data.of(stream, arm), None, skill, measure) is not None}
            if arms:
                tables.append(_bars(names[skill], skill, measure, runs, arms))
            rows = _forms(skill, arms)
            if rows:
                forms.append(table(["arm", *SAMPLED.values()], rows, numbers=list(SAMPLED.values()), caption=f"{names[skill]}, change"))
    if not tables:
        return NOTHING
    told = details("Form or knowledge: the change of what the model writes, by skill", join(_about_forms(), *forms)) if forms else NOTHING
    return join(heading(stream) if len(data.streams) > 1 else NOTHING, *tables, told)


def _bars(name: str, skill: str, measure: Measure, runs: Sequence[MeasuredRun], arms: Mapping[str, Sequence[MeasuredRun]]) -> Html:
    levels: dict[str, MeanEstimate | None] = {"base": level(runs, BASE, skill, measure)}
    levels |= {arm: level(own, None, skill, measure) for arm, own in arms.items()}
    known = {arm: found for arm, found in levels.items() if found is not None}
    whole = 1.0 if measure == "choice" else max(found.value if found.high is None else found.high for found in known.values()) or 1.0
    rows = []
    for arm, found in known.items():
        moved = None if arm == "base" else change(arms[arm], None, skill, measure)
        lost = moved is not None and (moved.value if measure == "cross_entropy" else -moved.value) > limit_of(skill, measure)
        low, high = (None, None) if found.low is None or found.high is None else (found.low / whole, found.high / whole)
        rows.append(
            [
                text(arm),
                estimate_html(found),
                NOTHING if moved is None else estimate_html(moved, signed=True, digits=3),
                marked(FORGOTTEN, "bad") if lost else NOTHING,
                bar(found.value / whole, "muted" if arm == "base" else "s1" if lost else "s0", low, high),
            ]
        )
    unit = "probability of the right answer" if measure == "choice" else "cross-entropy"
    limit = f"limit {limit_of(skill, measure):g}"
    return bar_table(["arm", "score", "change", "", " "], rows, numbers=["score", "change"], caption=f"{name}: {unit}, {limit}")


def _forms(skill: str, arms: Mapping[str, Sequence[MeasuredRun]]) -> list[list[Html]]:
    """How the measures of written answers changed, of the arms that have them."""
    rows = []
    for arm, own in arms.items():
        moved = [change(own, None, skill, measure) for measure in SAMPLED]
        if any(found is not None for found in moved):
            rows.append([text(arm), *(estimate_html(found, signed=True) for found in moved)])
    return rows


def _about_forms() -> Html:
    return paragraph(
        "If answers in the asked form are lost, and those with an example in sight are kept, the form was forgotten and not the "
        "knowledge: format interference."
    )
