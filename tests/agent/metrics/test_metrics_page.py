"""docs/metrics.md has every metric, as the code has it."""

from __future__ import annotations

from pathlib import Path

from perdure.agent.metrics.metric_table import METRICS

PAGE = Path(__file__).resolve().parents[3] / "docs/metrics.md"
HEADER = ["| metric | formula | source | unit | better |", "|---|---|---|---|---|"]


def test_every_metric_is_documented() -> None:
    rows = [f"| {each.name} | {each.formula} | {each.source} | {each.unit} | {each.better} |" for each in METRICS]
    assert "\n".join(["", *HEADER, *rows, ""]) in PAGE.read_text(), "docs/metrics.md should have:\n" + "\n".join(rows)
