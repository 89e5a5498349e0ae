"""`perdure change`: what persons have changed in the home, who it was, and why."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.agent.show.terminal import SummaryGroup, home_option, json_option, print_json, print_table


@click.group(cls=SummaryGroup)
def change() -> None:
    """Show what persons have changed.

    \b
    Example:
      perdure change list
    """


@change.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, newest first.")
@home_option
@json_option
def list_(limit: int, home: Path, as_json: bool) -> None:
    """List the changes that persons made, newest first: who, how, what and why.

    \b
    Example:
      perdure change list --json | jq '.[] | select(.what == "version rollback") | .reason'
    """
    from perdure.memory.changes import list_changes
    from perdure.memory.store import open_store

    with open_store(home, reading=True) as store:
        listed = [one.as_json() for one in list_changes(store, limit)]
    if as_json:
        print_json(listed)
        return
    columns = ("id", "made", "who", "via", "what", "subject", "reason")
    print_table(columns, [tuple(row[name] for name in columns) for row in listed])
