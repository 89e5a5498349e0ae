"""`perdure sql`: a question in SQL to the database and the shards of a home. It only reads."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from perdure.agent.show.terminal import home_option, print_table, report_option, visible

if TYPE_CHECKING:
    from perdure.memory.history.read_sql import SqlAnswer

MOST_SHOWN = 1000
"""Rows of a table; JSON has all."""


@click.command()
@click.argument("question", metavar="SELECT")
@home_option
@report_option
@click.pass_context
def sql(ctx: click.Context, question: str, home: Path, as_json: bool) -> None:
    """Ask the database and the archived shards in SQL, with DuckDB. It reads only.

    The views are episodes (completed ones), turns (texts, counts of tokens, rewards) and turn_tokens (ids and log-probs); docs/history.md
    says what their columns mean. Exit code 1 if a shard could not be read, and the answer lacks its turns. Needs the extra `history`.

    \b
    Example:
      perdure sql "select environment, count(*), avg(success) from episodes group by 1"
      perdure sql "describe turns"
    """
    with _ends_at_once():
        _ask(ctx, home, question, as_json)


def _ask(ctx: click.Context, home: Path, question: str, as_json: bool) -> None:
    from perdure.memory.history.read_sql import ask_sql
    from perdure.memory.store import open_store

    with open_store(home, reading=True) as opened, ask_sql(opened, question) as answer:
        if as_json:
            _print_json(answer)
        else:
            rows = list(islice(answer.rows, MOST_SHOWN + 1))
            print_table(answer.columns, [[_cell(value) for value in row] for row in rows[:MOST_SHOWN]])
            if len(rows) > MOST_SHOWN:
                click.echo(f"There are more than {MOST_SHOWN} rows: add a LIMIT, or see all with --json.", err=True)
        for why in answer.lost:
            click.echo(visible(f"The answer lacks turns: {why}"), err=True)
    ctx.exit(1 if answer.lost else 0)


@contextmanager
def _ends_at_once() -> Iterator[None]:
    """Ctrl-C ends the process without a step more, which loses nothing, as it only reads.

    As an exception it could come up in C++ (a module that is being loaded, DuckDB, Arrow), which would tell it as an error of its own.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, in the background
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, b"perdure: interrupted\n")
    os._exit(130)


def _print_json(answer: SqlAnswer) -> None:
    """One list of objects, written row by row, so that a long one is never in memory."""
    from perdure.memory.json_value import to_json

    plain = (sys.stdout.encoding or "utf-8").lower().replace("-", "") != "utf8"
    mark = "["
    for row in answer.rows:
        text = to_json(dict(zip(answer.columns, map(_plain, row), strict=True)))
        click.echo(mark + (_ascii(text) if plain else text), nl=False)
        mark = ",\n"
    click.echo("[]" if mark == "[" else "]")


def _ascii(text: str) -> str:
    import json

    return json.dumps(json.loads(text))


def _cell(value: Any) -> str | int | float | bool | None:
    from perdure.memory.json_value import to_json

    found = _plain(value)
    return to_json(found) if isinstance(found, list | dict) else found


def _plain(value: Any) -> Any:
    """A value of DuckDB as JSON has it: times in ISO's form, bytes as hexadecimal digits."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes() | bytearray() | memoryview():
            return bytes(value).hex()
        case UUID():
            return str(value)
        case dict():
            return {str(_plain(key)): _plain(item) for key, item in value.items()}
        case Sequence():
            return [_plain(item) for item in value]
    return str(value)
