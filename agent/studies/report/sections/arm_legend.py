"""What the colours and markers of a page mean."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.agent.studies.report.html_parts import Html, text
from perdure.agent.studies.report.report_data import ReportData
from perdure.agent.studies.report.report_style import themed

GLYPHS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}


def arm_key(data: ReportData, arm: str) -> Html:
    """The marker of an arm in its colour."""
    look = data.look(arm)
    return Html(themed(f'<span class="key" style="color:{look.colour}" aria-hidden="true">{GLYPHS[look.marker]}</span>'))


def arm_legend(data: ReportData, arms: Sequence[str]) -> Html:
    """All arms in a line."""
    return Html('<ul class="legend">' + "".join(f"<li>{arm_key(data, arm)}{text(arm)}" for arm in arms) + "</ul>\n")
