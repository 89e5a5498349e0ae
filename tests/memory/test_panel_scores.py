"""Scores on the capability panel in the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.memory.everything import BASE, BASE_HASH, PANEL_SCORES, leased_job

from perdure.memory import versions
from perdure.memory.contracts.orders import PanelOrder
from perdure.memory.environments import register
from perdure.memory.errors import LeaseLost, RuntimeFailure
from perdure.memory.evidence.item_scores import ItemScore, keep_panel_scores, panel_scores
from perdure.memory.store import create_store


def test_scores_are_kept_by_version_and_a_newer_one_replaces_an_older_one(tmp_path: Path) -> None:
    with create_store(tmp_path / "home") as store:
        register(store, "perdure:add")
        versions.add_initial(store, BASE, BASE_HASH)
        lease = leased_job(store, "one", PanelOrder(version="v0", asked="all"))
        keep_panel_scores(store, lease, "v0", PANEL_SCORES.items())
        keep_panel_scores(store, lease, "v0", [(("sums", "sums-1", "choice"), ItemScore(0.5, "new", "scripted"))])
        assert panel_scores(store, "v0") == {**PANEL_SCORES, ("sums", "sums-1", "choice"): ItemScore(0.5, "new", "scripted")}
        assert panel_scores(store, "v1") == {}
        with pytest.raises(LeaseLost):
            keep_panel_scores(store, replace(lease, attempt=7), "v0", PANEL_SCORES.items())
        with pytest.raises(RuntimeFailure, match="not in the store"):
            keep_panel_scores(store, lease, "v9", PANEL_SCORES.items())
        assert len(panel_scores(store, "v0")) == 3
