"""The R matrix as a table with colours: the score of every subject after every stage, and how far it is from the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from perdure.agent.metrics.measured_run import MeasuredRun
from perdure.agent.metrics.observation import BASE
from perdure.agent.show.short_names import short_names
from perdure.agent.studies.report.html_parts import NOTHING, Html, details, heading, heat_cell, heat_table, join, paragraph, section, text
from perdure.agent.studies.report.report_data import ReportData, change, last_stage, level, stream_of, subjects_of
from perdure.agent.studies.report.report_numbers import estimate_html

FULL_COLOUR = 0.3
"""A change this large has the strongest colour."""

Row = tuple[Html, Sequence[Html]]


def matrix_section(data: ReportData) -> Html:
    """A matrix for each arm and order; of a stream with one stage, one table with a row an arm."""
    parts = [_of_stream(data, stream) for stream in data.streams]
    if not any(parts):
        return NOTHING
    about = paragraph(
        "Mean score of each subject (column) after each stage (row). Blue is above the base, orange below, strongest from "
        f"{FULL_COLOUR:g} on; a frame marks what the stage learned. Below each score: its 95 % interval and the number of seeds."
    )
    return section("matrix", "Scores after every stage (R)", about, *parts)


def _of_stream(data: ReportData, stream: str) -> Html:
    runs = [run for run in data.runs if stream_of(run) == stream]
    subjects = subjects_of(runs)
    if not subjects:
        return NOTHING
    names = short_names(subjects)
    columns = [text(names[subject]) for subject in subjects]
    title = heading(stream) if len(data.streams) > 1 else NOTHING
    if last_stage(runs) <= 1:
        rows: list[Row] = [(text("base"), [_cell(runs, BASE, subject) for subject in subjects])]
        for arm in data.arms_of(stream):
            of_arm = data.of(stream, arm)
            rows.append((text(arm), [_cell(of_arm, 1, subject) for subject in subjects]))
        return join(title, heat_table("arm", columns, rows, caption="Base, and each arm at its end"))
    parts = [title]
    for arm in data.arms_of(stream):
        by_order: dict[str, list[MeasuredRun]] = {}
        for run in data.of(stream, arm):
            by_order.setdefault(run.name.order, []).append(run)
        tables = [
            heat_table("stage", columns, _rows(of_order, subjects, names), caption=f"{arm}, {order}" if order else arm)
            for order, of_order in by_order.items()
        ]
        parts += [tables[0], *(details(f"{arm}, {order}", table) for order, table in zip(list(by_order)[1:], tables[1:], strict=True))]
    return join(*parts)


def _rows(runs: Sequence[MeasuredRun], subjects: Sequence[str], names: Mapping[str, str]) -> list[Row]:
    rows: list[Row] = []
    for stage in range(last_stage(runs) + 1):
        targets = dict.fromkeys(
            names.get(target, target) for run in runs for fact in run.facts if fact.stage == stage for target in fact.targets
        )
        name = "base" if stage == BASE else f"{stage}: {', '.join(targets) or 'no target'}"
        rows.append((text(name), [_cell(runs, stage, subject) for subject in subjects]))
    return rows


def _cell(runs: Sequence[MeasuredRun], stage: int, subject: str) -> Html:
    moved = None if stage == BASE else change(runs, stage, subject)
    value = 0.0 if moved is None else moved.value
    is_target = any(fact.stage == stage and subject in fact.targets for run in runs for fact in run.facts)
    return heat_cell(estimate_html(level(runs, stage, subject)), abs(value) / FULL_COLOUR, is_loss=value < 0, is_target=is_target)
