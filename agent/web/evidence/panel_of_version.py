"""What the capability panel says of one version: as its last gate saw it, else from the scores that are kept."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.learners.panel.panel_items import load_panel
from perdure.learners.panel.stored_scores import known_result
from perdure.memory.contracts.panel_results import PanelResult
from perdure.memory.errors import InputError
from perdure.memory.gates import GateRow
from perdure.memory.records import Version
from perdure.memory.store import Store


def panel_of_version(store: Store, version: Version, gates: Sequence[GateRow]) -> PanelResult | None:
    """None if it was never scored, or not on all items."""
    judged = [gate.result.panel for gate in gates if gate.result is not None and gate.result.panel is not None]
    if judged:
        return judged[-1]
    if not store.rows("SELECT 1 FROM panel_score WHERE version = ? LIMIT 1", (version.name,)):
        return None
    try:
        skills = load_panel(store.home)
    except InputError:  # a file of the operator's own that is damaged: `perdure panel` names it
        skills = load_panel()
    return known_result(store, version.name, skills, "choice")
