"""The tables of the study, for people and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from perdure.agent.show.terminal import print_table
from perdure.agent.studies.mode_seeking.mode_seeking_arms import PARTS
from perdure.memory.json_value import Document

ARM_HEADS = ("arm", "n", "gained", "at update", "drop at gain .9", "gain at the end", "drop at the end", "as listed")
CLAIM_HEADS = ("claim", "less forgotten", "seeds", "holds")
CAPTIONS: Mapping[str, str] = {
    "mode-seeking-rates.svg": "Drop at gain .9 by slow factor, mean over seeds, with the lowest and the highest seed.",
    "mode-seeking-curves.svg": "Drop against gain while a learner is fitted, seed 0; the dot is gain .9.",
}


def print_mode_seeking(document: Document) -> None:
    """A table for each part, and one of claims."""
    for part, about in PARTS.items():
        rows = [_arm_cells(arm) for arm in document["arms"] if arm["part"] == part]
        if rows:
            print_table(ARM_HEADS, rows, title=f"{part}: {about}")
            click.echo()
    print_table(CLAIM_HEADS, [_claim_cells(claim) for claim in document["claims"]], title="claims; * is the paper's own")
    for arm in document["arms"]:
        for line in arm["differs"]:
            click.echo(f"not as listed: {arm['arm']}: {line}")


def mode_seeking_page(document: Document, plots: Sequence[Path]) -> str:
    """The same as Markdown, with the plots."""
    lines = [
        "# The mixture of two modes",
        "",
        f"`perdure study run mode-seeking` at {', '.join(document['made_by'])}. Means over the seeds, with the lowest and the highest.",
        "",
    ]
    for part, about in PARTS.items():
        rows = [_arm_cells(arm) for arm in document["arms"] if arm["part"] == part]
        if rows:
            lines += [f"**{part}**: {about}.", "", *_markdown(ARM_HEADS, rows), ""]
    lines += ["**claims**; * is the paper's own.", "", *_markdown(CLAIM_HEADS, [_claim_cells(claim) for claim in document["claims"]]), ""]
    for plot in plots:
        lines += [f"![{CAPTIONS[plot.name]}]({plot.name})", "", CAPTIONS[plot.name], ""]
    return "\n".join(lines)


def _arm_cells(arm: Document) -> tuple[str | int | None, ...]:
    gained, end = arm["at_gain"], arm["end"]
    return (
        arm["arm"],
        arm["n"],
        arm["n_gained"],
        _whole(gained["update"]),
        _shown(gained["drop"]),
        _shown(end["gain"]),
        _shown(end["drop"]),
        None if not arm["listed"] else "no" if arm["differs"] else "yes",
    )


def _claim_cells(claim: Document) -> tuple[str, str, str, str]:
    star = "*" if claim["paper"] else ""
    saved = _shown(claim["difference"])
    if claim["n_compared"] < claim["n"]:
        saved = f"gain .9 missed in {claim['n'] - claim['n_compared']} of {claim['n']}"
    return f"{claim['about']}{star}", saved, f"{claim['in_seeds']} of {claim['n']}", "yes" if claim["holds"] else "no"


def _whole(spread: Document | None) -> str:
    if spread is None:
        return "-"
    low, high = round(spread["low"]), round(spread["high"])
    return f"{low}" if low == high else f"{low} to {high}"


def _shown(spread: Document | None) -> str:
    """The mean, and in brackets the lowest and the highest seed if they differ."""
    if spread is None:
        return "-"
    mean, low, high = (f"{spread[key]:.3f}" for key in ("mean", "low", "high"))
    return mean if low == high else f"{mean} ({low} to {high})"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str | int | None]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return lines + [f"| {' | '.join('-' if cell is None else str(cell) for cell in row)} |" for row in rows]
