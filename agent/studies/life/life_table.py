"""What `perdure study run life` prints for people."""

from __future__ import annotations

from collections.abc import Sequence

import click

from perdure.agent.show.short_names import short_name
from perdure.agent.show.terminal import Cell, print_table
from perdure.memory.json_value import Document


def print_life(document: Document) -> None:
    """For each seed a table of its environments and a few lines; then the means over the seeds."""
    for life in document["lives"]:
        _print_seed(life)
    over = document["over_seeds"]
    click.echo(
        f"over {len(document['lives'])} seeds, mean over {len(document['environments'])} environments: start {_shown(over['start'])}, "
        f"life {_shown(over['life'])}, joint job {_shown(over['joint'])}, naive life {_shown(over['naive'])}; shown to have fallen more "
        f"than 5 points below their best: {over['fell']} in the lives, {over['naive_fell']} in the naive ones; "
        f"{over['dropped']} verdicts dropped without a follow-up"
    )
    if over["gate_s_median"] is not None:
        click.echo(
            f"a gate took {over['gate_s_median']:.0f} s (median, worst {over['gate_s_worst']:.0f}), "
            f"from job to verdict {over['job_to_verdict_s_median']:.0f} s (median over the seeds' medians)"
        )


def _print_seed(life: Document) -> None:
    first, now = life["served"][0]["version"], life["serves"]
    rows: list[Sequence[Cell]] = []
    for name in life["environments"]:
        fell = life.get("fell", {}).get(name)
        naive = life.get("naive_fell", {}).get(name)
        rows.append(
            (
                short_name(name),
                _score(life, first, name),
                _score(life, now, name),
                None if fell is None else f"{fell['best']}, {_lost(fell)}",
                life.get("joint", {}).get(name),
                _last(life["naive_means"], name) if naive is not None else None,
                None if naive is None else f"{naive['best']}, {_lost(naive)}",
            )
        )
    columns = ("environment", first, now, "best ever, lost since", "joint", "naive", "its best, lost since")
    verdicts = ", ".join(f"{n} {verdict}" for verdict, n in life["verdicts"].items())
    print_table(
        columns, rows, title=f"seed {life['seed']}: {life['minutes']:.0f} minutes, {life['updates']} updates, {verdicts or 'no verdict'}"
    )
    for key, other in (("life_minus_joint", "the joint job"), ("life_minus_naive", "the naive life")):
        if key in life:
            d = life[key]
            click.echo(f"mean over all, {now} - {other}: {d['mean']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f})")
    spent = {name: seconds for name, seconds in life["seconds"].items() if "_" not in name}
    click.echo("seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in spent.items()))
    for verdict in life["dropped"]:
        click.echo(f"dropped: {verdict['verdict']} of {verdict['candidate']}: {verdict['reason']}")
    click.echo("")


def _lost(fell: Document) -> str:
    """'-.01 (-.06 to .04)', with a word if it is shown."""
    lost = fell["lost"]
    text = f"{lost['mean']:+.2f} ({lost['low']:+.2f} to {lost['high']:+.2f})"
    return f"{text} FELL" if fell["fell"] else text


def _score(life: Document, version: str, name: str) -> float | None:
    found = life["means"].get(version)
    return None if found is None else found[name]


def _last(means: Document, name: str) -> float:
    return float(list(means.values())[-1][name])


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
