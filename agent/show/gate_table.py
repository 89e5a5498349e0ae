"""One table of what a gate showed, the same wherever a gate is shown."""

from __future__ import annotations

import click

from perdure.agent.show.terminal import Cell, print_table, visible
from perdure.memory.contracts.panel_results import PanelResult
from perdure.memory.contracts.results import GateResult, Leg

COLUMNS = ("environment", "role", "pairs", "candidate", "reference", "difference", "e-value", "verdict", "against")


def print_gate(result: GateResult) -> None:
    """The table, and what it cost."""
    drawn = answers_drawn(result.temperature, result.samples)
    title = f"\nGate {result.gate} of {result.candidate}: profile {result.profile}, {result.rounds} rounds (held-out seeds, {drawn})"
    print_table(COLUMNS, gate_rows(result), title=title)
    for line in findings(result):
        click.echo(line)
    click.echo(f"{result.candidate_episodes} episodes by the candidate, {result.anchor_episodes} by the references")


def answers_drawn(temperature: float, samples: int) -> str:
    """How answers were drawn, in words."""
    if temperature == 0:
        return "greedy"
    sampled = f"sampled at temperature {temperature:g}"
    return f"{samples} answers to each, {sampled}" if samples > 1 else sampled


def findings(result: GateResult) -> list[str]:
    """What was found beside the pairs, a line each."""
    lines = [] if result.panel is None else [panel_line(result.panel)]
    if result.new_anchors:
        lines.append(f"{result.candidate} beat the anchors of {visible(', '.join(result.new_anchors))}, and takes their place there")
    if result.evidence.regressed:
        lines.append(f"shown to have fallen: {visible(', '.join(result.evidence.regressed))}")
    return lines


def panel_line(panel: PanelResult) -> str:
    """What the capability panel showed, in a sentence."""
    lost = {name: skill for name, skill in panel.skills.items() if skill.lost_against}
    if not lost:
        return f"capability panel: {panel.version} holds every skill"
    named = [f"{visible(name)} ({one.version:.2f}, {panel.before} {one.before:.2f}, base {one.base:.2f})" for name, one in lost.items()]
    return f"capability panel: {panel.version} has forgotten {', '.join(named)}"


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
