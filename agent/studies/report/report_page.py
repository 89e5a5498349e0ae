"""The page of a study: one HTML file that needs nothing else, opens without a server, and follows light and dark."""

from __future__ import annotations

import re
from collections.abc import Sequence

from perdure.agent.studies.report.html_parts import NOTHING, Html, paragraph, text
from perdure.agent.studies.report.report_data import ReportData, metrics_of
from perdure.agent.studies.report.report_style import style_sheet
from perdure.agent.studies.report.sections.cost_section import cost_section
from perdure.agent.studies.report.sections.curve_section import curve_section
from perdure.agent.studies.report.sections.divergence_section import divergence_section
from perdure.agent.studies.report.sections.findings_section import claims_section, glossary, metrics_section
from perdure.agent.studies.report.sections.gate_section import gate_section
from perdure.agent.studies.report.sections.matrix_section import matrix_section
from perdure.agent.studies.report.sections.panel_section import panel_section
from perdure.agent.studies.report.sections.study_section import overview, study_section
from perdure.agent.studies.report.sections.tradeoff_section import tradeoff_section


def report_page(data: ReportData, *, with_plots: bool, made_by: str, against: str | None = None) -> Html:
    """The whole page. `made_by`: the program that writes it. `against`: the arm that others are compared with."""
    metrics = {stream: metrics_of(data, stream) for stream in data.streams}
    sections = [
        claims_section(data),
        tradeoff_section(data, metrics, with_plots=with_plots),
        metrics_section(data, metrics, against),
        matrix_section(data),
        curve_section(data, with_plots=with_plots),
        divergence_section(data, with_plots=with_plots),
        gate_section(data),
        panel_section(data),
        cost_section(data, metrics),
        study_section(data),
        glossary(metrics),
    ]
    present = [part for part in sections if part]
    note = NOTHING if with_plots else paragraph("Drawn without matplotlib: no plots. All numbers are in the tables.", "muted")
    name = text(data.study.name)
    return Html(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: study report</title><style>{style_sheet()}</style></head>\n<body>"
        f"<header><h1>Study report: {name}</h1>{overview(data)}{note}</header>\n{_contents(present)}"
        f"<main>{''.join(present)}</main>\n<footer>Made by perdure study report, {text(made_by)}.</footer></body></html>\n"
    )


def _contents(sections: Sequence[Html]) -> Html:
    heads = [re.match(r'<section id="([^"]*)"><h2>(.*?)</h2>', part) for part in sections]
    links = "".join(f'<li><a href="#{head[1]}">{head[2]}</a>' for head in heads if head)
    return Html(f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n')
