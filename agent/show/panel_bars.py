"""The capability panel as bars: each skill with the base model, the version before and the version itself."""

from __future__ import annotations

import click

from perdure.agent.show.terminal import Cell, print_table, visible
from perdure.memory.contracts.panel_results import PanelResult, SkillScores

WIDTH = 32
EIGHTHS = " ▏▎▍▌▋▊▉"
FORGOTTEN = "FORGOTTEN"


def print_panel(result: PanelResult) -> None:
    """Bars, and a table of the greedy answers if they were asked for."""
    click.echo(f"{result.version} on the capability panel: mean probability of the right answer among those listed")
    for line in panel_lines(result):
        click.echo(line)
    rows = sampled_rows(result)
    if rows:
        columns = ("skill", "greedy answers", "items", "base", result.before, result.version, "kept")
        print_table(columns, rows, title="\nShares that are right; kept: of those that the base model has right")
    if result.left_out:
        click.echo(f"{result.left_out} items do not fit into the context of the model, and are left out.")


def panel_lines(result: PanelResult) -> list[str]:
    """A line for each skill and version."""
    width = max((len(visible(name)) for name in result.skills), default=0)
    names = {"base": "base", "before": result.before, "version": result.version}
    repeated = {"base": result.version == result.base, "before": result.before == result.base, "version": False}
    shown = [role for role in names if not repeated[role]]
    label = max(len(names[role]) for role in shown)
    lines = []
    for name, skill in result.skills.items():
        scores = {"base": skill.base, "before": skill.before, "version": skill.version}
        for role in shown:
            head = visible(name) if role == shown[0] else ""
            line = f"{head:<{width}}  {names[role]:<{label}}  {number(skill, scores[role])}  {bar(skill, scores[role]):<{WIDTH}}"
            note = _note(result, skill) if role == "version" else ""
            lines.append(f"{line}  {note}".rstrip())
    return lines


def bar(skill: SkillScores, score: float) -> str:
    """A probability as a part of the whole width, a cross-entropy as a part of the largest of the three."""
    whole = 1.0 if skill.measure == "choice" else max(skill.base, skill.before, skill.version)
    return drawn(score / whole if whole > 0 else 0.0, WIDTH)


def drawn(share: float, width: int) -> str:
    """A share of a width in characters, to the eighth of one; from 0 to the whole."""
    eighths = round(8 * width * min(1.0, max(0.0, share)))
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def number(skill: SkillScores, score: float) -> str:
    """A probability as '.61', nats as '3.41'."""
    return f"{score:.2f}".removeprefix("0").rjust(4) if skill.measure == "choice" else f"{score:4.2f}"


def sampled_rows(result: PanelResult) -> list[list[Cell]]:
    """Skill, measure, items, the three shares of right answers, and the share that is kept."""
    return [
        [name, measure, scores.items, scores.base, scores.before, scores.version, scores.kept]
        for name, skill in result.skills.items()
        for measure, scores in skill.sampled.items()
    ]


def _note(result: PanelResult, skill: SkillScores) -> str:
    unit = "" if skill.measure == "choice" else "nats a token, less is better"
    if not skill.lost_against:
        return unit
    against = [result.before if other == "before" else "the base model" for other in skill.lost_against]
    if result.before == result.base:
        against = against[-1:]
    return f"{FORGOTTEN} against {' and '.join(against)}" + (f" ({unit})" if unit else "")
