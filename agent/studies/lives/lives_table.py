"""The table of a study of simulated lives: a row for each condition and each offer, for programs, for people, and as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import click

from perdure.agent.show.terminal import print_table
from perdure.agent.studies.cells import CellResult
from perdure.agent.studies.lives.conditions import CONDITIONS, OLD, OLD_START
from perdure.agent.studies.lives.lives_study import NAME, OFFER_NOISES
from perdure.agent.studies.lives.offers import MOST_PROMOTED, OFFERS
from perdure.memory.json_value import Document

COLUMNS: Mapping[str, str] = {
    "promotions": "promotions",
    "stalled": "stalled",
    "end": "end",
    "worst": "worst",
    "fall_median": "fall, median",
    "fall_95": "fall, 95 %",
    "fall_at_end": "fall at the end",
    "jobs_on_chance": "on chance",
    "repairs": "repairs",
    "gated_again": "gated again",
    "idle_looks": "idle",
    "gate_episodes": "episodes",
    "old_change": "old ones",
}
"""The numbers of a life that are shown, with the heads of their columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LivesRow:
    """The lives under one condition."""

    row: str
    about: str
    lives: int
    numbers: Mapping[str, float]
    breaches: tuple[str, ...]
    """What it does not reach."""

    def as_json(self) -> Document:
        return {
            "row": self.row,
            "about": self.about,
            "lives": self.lives,
            **self.numbers,
            "ok": not self.breaches,
            "breaches": list(self.breaches),
        }


def lives_table(results: Mapping[str, CellResult]) -> list[LivesRow]:
    """A row for each condition with finished lives. Pure."""
    by_row: dict[str, list[Document]] = {}
    for result in results.values():
        for row in result.rows:
            by_row.setdefault(row["row"], []).append(row)
    table = []
    for name in OFFER_NOISES:
        for offer in OFFERS:
            if rows := [row for row in by_row.get(name, ()) if row["offer"] == offer]:
                table.append(_offer_row(name, offer, rows))
    for name, condition in CONDITIONS.items():
        lived = by_row.get(name)
        if lived:
            numbers = _numbers(lived)
            breaches = [f"{key} {numbers[key]:.3f} < {least:g}" for key, least in condition.least.items() if numbers[key] < least]
            breaches += [f"{key} {numbers[key]:.3f} > {most:g}" for key, most in condition.most.items() if numbers[key] > most]
            table.append(LivesRow(row=name, about=condition.about, lives=len(lived), numbers=numbers, breaches=tuple(breaches)))
    return table


def _offer_row(name: str, offer: str, rows: Sequence[Document]) -> LivesRow:
    promoted = fmean(row["promoted"] for row in rows)
    return LivesRow(
        row=f"{name}: {offer}",
        about=f"after 30 good cycles, a candidate that loses {offer} and gains 50 on a new target",
        lives=len(rows),
        numbers={
            "promoted": promoted,
            "promotions": fmean(row["promotions_before"] for row in rows),
            "above_anchors": fmean(row["above_anchors"] for row in rows),
            "most_above_anchor": fmean(row["most_above_anchor"] for row in rows),
        },
        breaches=(f"promoted {promoted:.3f} > {MOST_PROMOTED:g}",) if promoted > MOST_PROMOTED else (),
    )


def _numbers(rows: Sequence[Document]) -> dict[str, float]:
    """Means over lives, unless the name says otherwise."""
    falls = sorted(row["deepest_fall"] for row in rows)
    numbers = {
        key: fmean(row[key] for row in rows)
        for key in (
            "promotions",
            "end",
            "worst",
            "learning_jobs",
            "jobs_on_chance",
            "repairs",
            "continuations",
            "gated_again",
            "idle_looks",
            "gate_episodes",
            "above_anchors",
            "stalled",
            "fall_at_end",
        )
    }
    numbers["fall_median"] = median(falls)
    numbers["fall_95"] = falls[min(len(falls) - 1, int(0.95 * len(falls)))]
    numbers["unfollowed"] = fmean(sum(row["unfollowed"].values()) for row in rows)
    old = [row["end_by_environment"][one.name] - OLD_START for row in rows for one in OLD if one.name in row["end_by_environment"]]
    if old:
        numbers["old_change"] = fmean(old)
    return numbers


def lives_document(results: Mapping[str, CellResult]) -> Document:
    """The table as JSON."""
    table = lives_table(results)
    return {
        "study": NAME,
        "ok": all(not row.breaches for row in table),
        "rows": [row.as_json() for row in table],
        "made_by": sorted({result.made_by for result in results.values()}),
    }


def print_lives(document: Document) -> None:
    """Two tables: the offers, then the lives."""
    offers, lives = _two_tables(document)
    print_table(
        ("offered", "lives", "promoted", "serving above anchors", "at most"),
        [(row["row"], row["lives"], row["promoted"], row["above_anchors"], row["most_above_anchor"]) for row in offers],
        title="a bad candidate after 30 good cycles",
    )
    print_table(
        ("lives", "n", *COLUMNS.values(), "reached"),
        [(row["row"], row["lives"], *(_cell_of(row, key) for key in COLUMNS), row["ok"]) for row in lives],
        title="fifty looks a life, means",
    )
    for row in document["rows"]:
        if not row["ok"]:
            click.echo(f"not reached: {row['row']}: {'; '.join(row['breaches'])}")


def lives_page(document: Document, plots: Sequence[Path]) -> str:
    """The same tables as Markdown, as docs/measurements.md has them."""
    offers, lives = _two_tables(document)
    lines = ["| offered after 30 good cycles | lives | promoted | serving above its anchors |", "|---|---|---|---|"]
    lines += [f"| {row['row']} | {row['lives']} | {row['promoted']:.3f} | {row['above_anchors']:.3f} |" for row in offers]
    lines += ["", f"| lives | n | {' | '.join(COLUMNS.values())} |", "|---" * (2 + len(COLUMNS)) + "|"]
    lines += [f"| {row['row']} | {row['lives']} | {' | '.join(_shown(_cell_of(row, key)) for key in COLUMNS)} |" for row in lives]
    return "\n".join([*lines, ""])


def _two_tables(document: Document) -> tuple[list[Document], list[Document]]:
    rows = document["rows"]
    return [row for row in rows if "promoted" in row], [row for row in rows if "promoted" not in row]


def _cell_of(row: Document, key: str) -> int | float | None:
    value = row.get(key)
    return round(value) if key == "gate_episodes" and value is not None else value


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}" if value >= 2 else f"{value:.2f}"
