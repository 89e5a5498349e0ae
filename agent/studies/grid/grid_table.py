"""What a learner study comes to, as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import click

from perdure.agent.metrics.metric_table import METRIC
from perdure.agent.show.terminal import Cell, print_table
from perdure.memory.json_value import Document

SHOWN = ("acc", "learned", "bwt", "fwt", "forgetting_first", "retention", "gain", "drop")


def print_retaining(document: Document) -> None:
    """Arms at the matched gain, what is not comparable, claims, failures."""
    gains = ", ".join(f"{stream} {gain:.2f}" for stream, gain in document["matched_gain"].items())
    click.echo(f"matched gain (dev): {gains or 'none yet'}")
    rows: list[Sequence[Cell]] = [
        (
            arm["arm"],
            arm["stream"],
            arm["n"] if arm["n"] == arm["planned"] else f"{arm['n']} of {arm['planned']}",
            _interval(arm["gain"]),
            _interval(arm["drop"]),
            _interval(arm["panel_drop"]),
            None if arm["tokens"] is None else round(arm["tokens"]["value"]),
            None if arm["seconds"] is None else round(arm["seconds"]["value"]),
            "" if arm["comparable"] else "NOT COMPARABLE",
        )
        for arm in document["arms"]
    ]
    columns = ("arm", "target", "seeds", "gain", "drop", "panel drop", "tokens", "seconds", "")
    print_table(columns, rows, title="At the matched gain: means over seeds on test tasks, with 95 % intervals")
    for line in document["warnings"]:
        click.echo(f"warning: {line}")
    for one in document["not_comparable"]:
        click.echo(f"not comparable: {one['arm']} on {one['stream']}: {one['why']}")
    print_claims(document["claims"])
    print_failures(document["failures"])


def print_stream(document: Document) -> None:
    """Metrics of every arm, differences to the first, claims, failures."""
    rows: list[Sequence[Cell]] = [
        (
            arm,
            max((of["n"] for of in metrics.values()), default=0),
            _updates(document["updates"][arm]),
            *(_interval(metrics.get(metric)) for metric in SHOWN),
        )
        for arm, metrics in document["arms"].items()
    ]
    print_table(("arm", "seeds", "updates", *(METRIC[metric].name for metric in SHOWN)), rows, title="Over the stages: means over seeds")
    for one in document["differences"]:
        p = "" if one["p"] is None else f", p {one['p']:.3f}"
        click.echo(f"{one['first']} - {one['second']}, {METRIC[one['metric']].name}: {_interval(one)} over {one['n']} seeds{p}")
    print_claims(document["claims"])
    print_failures(document["failures"])


def print_claims(claims: Sequence[Document]) -> None:
    """In the order in which they were tested."""
    for claim in claims:
        estimate = "" if claim["estimate"] is None else f" {_interval({**claim, 'value': claim['estimate']})}"
        click.echo(f"claim: {claim['claim']}: {claim['verdict']}{estimate}; {claim['why']}")


def print_failures(failures: Sequence[Document]) -> None:
    """Runs that came to nothing."""
    for one in failures:
        click.echo(f"failed: {one['cell']}: {one['error']}")


def _updates(of: Document) -> str:
    """'64', or '58 (41 to 64)' if runs differ."""
    return f"{of['mean']:.0f}" if of["least"] == of["most"] else f"{of['mean']:.0f} ({of['least']} to {of['most']})"


def _interval(of: Document | None) -> str | None:
    """'.12 (-.03 to .27)'."""
    if of is None:
        return None
    if of["low"] is None:
        return f"{of['value']:+.3f}"
    return f"{of['value']:+.3f} ({of['low']:+.3f} to {of['high']:+.3f})"
