"""One table of what a gate showed, the same wherever a gate is shown."""

from __future__ import annotations

import click

from perdure.agent.show.terminal import Cell, print_table
from perdure.memory.contracts.results import GateResult, Leg

COLUMNS = ("environment", "role", "pairs", "candidate", "reference", "difference", "e-value", "verdict", "against")


def print_gate(result: GateResult) -> None:
    """The table, and what it cost."""
    title = f"\nGate {result.gate} of {result.candidate}: profile {result.profile}, {result.rounds} rounds (greedy, held-out seeds)"
    print_table(COLUMNS, gate_rows(result), title=title)
    click.echo(f"{result.candidate_episodes} episodes by the candidate, {result.anchor_episodes} by the references")


def gate_rows(result: GateResult) -> list[list[Cell]]:
    """Rows of `COLUMNS`: what was to be held, all of it pooled, and what was to be gained."""
    evidence = result.evidence
    rows = [_row(name, leg.role or "earlier", leg) for name, leg in evidence.environments.items()]
    if evidence.pooled is not None:
        rows.append(_row("all earlier ones", "pooled", evidence.pooled))
    return rows + [_row(name, "gain", leg) for name, leg in evidence.trained.items()]


def _row(name: str, role: str, leg: Leg) -> list[Cell]:
    return [
        name,
        role,
        leg.n,
        _two_digits(leg.candidate_score),
        _two_digits(leg.reference_score),
        None if leg.mean_difference is None else f"{leg.mean_difference:+.2f}",
        None if leg.wealth is None or leg.need is None else f"{leg.wealth:.2f} (needs {leg.need:.0f})",
        leg.state,
        leg.reference,
    ]


def _two_digits(score: float | None) -> str | None:
    return None if score is None else f"{score:.2f}"
