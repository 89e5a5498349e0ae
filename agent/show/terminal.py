"""What all commands share: the options --home, --config and --json, tables, and one JSON document.

Tables are drawn with rich on a terminal and are plain text elsewhere. Text that came from environments or models is shown with its
control characters made visible, so that it cannot move the cursor or colour anything.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from perdure.agent.home import HOME_VARIABLE, default_home
from perdure.memory.errors import InputError

HOME_KEY = "perdure.home"
"""The key of the home in a context."""

Cell = str | int | float | bool | None


def _home(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path:
    home = value or ctx.find_root().params.get("home") or default_home()
    ctx.meta[HOME_KEY] = home = Path(home).expanduser()
    file = next((place for place in (home, *home.parents) if place.is_file()), None)
    if file is not None:
        raise InputError(f"the home {home} cannot be made: {file} is a file; name a folder with --home or {HOME_VARIABLE}")
    return home


home_option = click.option(
    "--home", type=click.Path(path_type=Path), callback=_home, help="Folder for everything that a run writes; also before the command."
)
config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="Configuration file. [default: perdure.toml in the working folder, if it exists]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
why_option = click.option("--reason", help="Why; `perdure change list` shows it.")
report_option = click.option(
    "--json/--table",
    "as_json",
    default=None,
    callback=lambda ctx, param, value: not sys.stdout.isatty() if value is None else value,
    help="Print one JSON document, the default if the output is not a terminal; or a table.",
)


class SummaryGroup(click.Group):
    """A group whose help shows the whole first sentence of each command."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(limit=1000)) for name, command in found if command is not None and not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def say(line: str) -> None:
    """Progress: a line on stderr, if that is a terminal."""
    if sys.stderr.isatty():
        click.echo(visible(line), err=True)


def report_progress(line: str) -> None:
    """Progress of a command that takes minutes: a line on stderr, also if that is a pipe or a file."""
    click.echo(visible(line), err=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    import json

    from perdure.memory.json_value import to_json

    text = to_json(value)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text))
    click.echo(text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, title: str = "") -> None:
    """A table of records; numbers are right-aligned."""
    cells = [[_shown(cell) for cell in row] for row in rows]
    right = [bool(rows) and all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(columns))]
    if sys.stdout.isatty():
        _print_rich(columns, cells, right, title)
        return
    if title:
        click.echo(title)
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    for line in [list(columns), *cells]:
        parts = [cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in zip(line, widths, right, strict=True)]
        click.echo("  ".join(parts).rstrip())


def _print_rich(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", padding=(0, 1, 0, 0), pad_edge=False)
    for column, to_right in zip(columns, right, strict=True):
        table.add_column(column, justify="right" if to_right else "left", overflow="fold")
    for line in cells:
        table.add_row(*(Text(cell) for cell in line))
    Console().print(table)


def visible(text: str) -> str:
    """The text with control characters, and those that change the direction of writing, as escapes; line ends and tabs stay."""
    return "".join(
        character if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs") else _escape(character)
        for character in text
    )


def rounded(value: float) -> str:
    """A number with three digits, or with all those before the point up to a billion."""
    return f"{value:.0f}" if 999.5 <= abs(value) < 1e9 else f"{value:.3g}"


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _shown(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return rounded(cell)
    return visible(str(cell)).replace("\n", "\\n")
