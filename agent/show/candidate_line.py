"""Which step of a learning job became its candidate, in words: the same wherever a result is shown."""

from __future__ import annotations

from perdure.agent.show.terminal import visible
from perdure.memory.contracts.results import LearnResult


def candidate_line(result: LearnResult) -> str:
    chosen = result.selection
    of = f" of {result.diagnostics.update}" if result.diagnostics else ""
    line = f"The candidate is step {chosen.step}{of}: {visible(chosen.reason)}."
    return line if chosen.ended_early is None else f"{line} The job ended early: {visible(chosen.ended_early)}."
