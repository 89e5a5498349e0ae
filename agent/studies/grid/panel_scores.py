"""The one place where a study asks the capability panel: the scores of a version by skill and item."""

from __future__ import annotations

from perdure.agent.studies.grid.study_home import StudyHome
from perdure.agent.studies.grid.table_rows import PanelScore


def panel_scores(home: StudyHome, version: str) -> list[PanelScore]:
    """All scores by log-prob of a version; none if this Perdure has no panel."""
    return []
