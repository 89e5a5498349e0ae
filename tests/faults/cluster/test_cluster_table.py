"""The table of the suite of a cluster: what is broken is said, and how long work took to go on."""

from __future__ import annotations

from pathlib import Path

from tests.faults.cluster.cluster_table import ClusterTable
from tests.faults.invariants import Findings


def test_a_row_says_what_is_broken_and_the_table_sums_up(tmp_path: Path) -> None:
    table = ClusterTable(tmp_path / "record")
    table.add("a player", Findings(), 11.0, 14.0)
    table.add("a player", Findings(lost=2, broken=("a rule",)), 21.0, 16.0)
    table.add("a player", Findings(), None, 15.0)
    table.add("the head", Findings(twice=1, doubled=1), None, 61.0, 60.0)
    assert table.broken == [
        "a player: a rule",
        "a player: 2 turns lost",
        "a player: it took 21.0 s for its work to go on elsewhere, and not under 20",
        "the head: 1 members completed twice",
        "the head: 1 episodes in two batches",
        "the head: it took 61.0 s for all to play again, and not under 60",
    ]
    text = table.markdown()
    assert "| a player | 3 | 2 | 0 | 0 | 1 | 16.0 s | 21.0 s | 15.0 s | 16.0 s |" in text
    assert text.endswith("| **all** | 4 | 2 | 1 | 1 | 1 |  |  |  |  |")
    assert ClusterTable(tmp_path / "record").rows() == table.rows(), "a run that goes on has what was recorded"
