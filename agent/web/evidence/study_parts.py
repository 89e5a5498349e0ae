"""A study part by part, as the tables of its report. Nothing in its files is run.

A part of a report may take seconds to work out, so the last few studies that were asked for are kept in memory as they were read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.agent.studies.study_file import FILE_NAME, cell_counts
from perdure.memory.errors import UnknownError
from perdure.memory.json_value import Document

if TYPE_CHECKING:
    from perdure.agent.studies.report.report_data import ArmMetrics, ReportData

OVERVIEW = "overview"
PARTS: Mapping[str, str] = {
    OVERVIEW: "Overview",
    "metrics": "Metrics",
    "matrix": "Scores after every stage",
    "gate": "The gate",
    "panel": "Capability panel",
    "cost": "Costs",
    "study": "The study",
    "formulas": "Formulas",
}
MOST_CHARACTERS = 220_000
"""Of one part on a page."""


def study_folder(keep: Path, name: str) -> Path:
    """The folder of a study of this name, which is none of another place. Raises `UnknownError`."""
    for path in keep.glob(f"*/{FILE_NAME}"):
        if path.parent.name == name:
            return path.parent
    raise UnknownError(f"no study {name[:100]!r} in {keep}: `perdure study list` shows those that are there")


def study_part(folder: Path, part: str) -> str | None:
    """A part of the report as HTML in which every text is escaped; empty if the study has nothing for it, None if it is too long.

    Raises `InputError` if the study has no cell yet, or if it is damaged.
    """
    data, metrics = _read(folder, _stamp(folder))
    html = _without_styles(_sections()[part](data, metrics))
    return html if len(html) <= MOST_CHARACTERS else None


def study_document(folder: Path) -> Document:
    """What a study came to: how far its cells are, and every metric of every arm, by stream. Raises as `study_part`."""
    counts = cell_counts(folder)
    found: Document = {"name": folder.name, "cells": {"done": counts.done, "failed": counts.failed, "left": counts.left}}
    if not counts.done:
        return {**found, "arms": [], "runs": 0, "streams": {}}
    data, metrics = _read(folder, _stamp(folder))
    streams = {
        stream: {arm: {key: one.as_json() for key, one in of_arm.items()} for arm, of_arm in by_arm.items()}
        for stream, by_arm in metrics.items()
    }
    return {**found, "arms": list(data.arms), "runs": len(data.runs), "streams": streams}


def _sections() -> Mapping[str, Callable[[ReportData, Mapping[str, ArmMetrics]], str]]:
    """Loaded when a study is looked at: the metrics take a second to load."""
    from perdure.agent.studies.report.sections.cost_section import cost_section
    from perdure.agent.studies.report.sections.findings_section import claims_section, glossary, metrics_section
    from perdure.agent.studies.report.sections.gate_section import gate_section
    from perdure.agent.studies.report.sections.matrix_section import matrix_section
    from perdure.agent.studies.report.sections.panel_section import panel_section
    from perdure.agent.studies.report.sections.study_section import overview, study_section

    return {
        OVERVIEW: lambda data, metrics: overview(data) + claims_section(data),
        "metrics": lambda data, metrics: metrics_section(data, metrics, None),
        "matrix": lambda data, metrics: matrix_section(data),
        "gate": lambda data, metrics: gate_section(data),
        "panel": lambda data, metrics: panel_section(data),
        "cost": lambda data, metrics: cost_section(data, metrics),
        "study": lambda data, metrics: study_section(data),
        "formulas": lambda data, metrics: glossary(metrics),
    }


def _stamp(folder: Path) -> tuple[object, ...]:
    """Changes when the study does."""
    summaries = sorted((path.name, path.stat().st_mtime_ns) for path in folder.glob("*.json"))
    return cell_counts(folder), tuple(summaries)


@lru_cache(maxsize=4)
def _read(folder: Path, stamp: tuple[object, ...]) -> tuple[ReportData, Mapping[str, ArmMetrics]]:
    from perdure.agent.studies.report.find_study import load_study
    from perdure.agent.studies.report.report_data import metrics_of, report_data

    data = report_data(load_study(folder))
    return data, {stream: metrics_of(data, stream) for stream in data.streams}


def _without_styles(html: str) -> str:
    """The report's HTML for a page that allows no style in its text: strengths and widths become data that the style sheet knows.

    Texts have no quotation mark in them (`agent/studies/report/html_parts.py:text`), so none of them is taken for an attribute.
    """
    html = re.sub(r'<figure><img class="drawn".*?</figure>', "", html, flags=re.DOTALL)  # large, and drawn for white paper
    html = re.sub(r'<i( class="down")? style="--o:(\d\.\d)\d"></i>', lambda found: f'<i{found[1] or ""} data-o="{found[2][2:]}"></i>', html)
    html = re.sub(r'<b style="width:(\d+)\.\d%[^"]*"></b>', lambda found: f'<b data-w="{5 * round(int(found[1]) / 5)}"></b>', html)
    html = re.sub(r'<u style="[^"]*"></u>', "", html)
    return re.sub(r' style="[^"]*"', "", html)
