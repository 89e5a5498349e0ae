"""`perdure pause` and `perdure resume`: stop and start play or learning without ending the daemon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.agent.show.terminal import home_option, json_option, print_json
from perdure.memory.errors import InputError

if TYPE_CHECKING:
    from perdure.memory.processes import Pausable

what_argument = click.argument("what", metavar="[play|learning]", type=click.Choice(("play", "learning")), required=False)


@click.command()
@what_argument
@click.option("--reason", required=True, help="Why; `perdure status` shows it.")
@home_option
@json_option
def pause(what: Pausable | None, reason: str, home: Path, as_json: bool) -> None:
    """Pause play or learning, or both, until `perdure resume`, also over restarts of the daemon.

    A job that runs is given back, and resumes after its last update. A command such as `perdure learn` in a home without a daemon is not
    held up.

    \b
    Example:
      perdure pause learning --reason 'the machine is needed until six'
    """
    from perdure.memory.processes import pause as begin
    from perdure.memory.processes import pauses
    from perdure.memory.store import open_store

    if not reason.strip():
        raise InputError("the reason is empty: give --reason a few words")
    with open_store(home) as store:
        for one in _both(what):
            begin(store, one, reason)
        listed = [one.as_json() for one in pauses(store)]
    if as_json:
        print_json(listed)
        return
    click.echo(f"{' and '.join(_both(what))} paused. `perdure resume{'' if what is None else f' {what}'}` goes on.".capitalize())


@click.command()
@what_argument
@home_option
@json_option
def resume(what: Pausable | None, home: Path, as_json: bool) -> None:
    """Go on with what `perdure pause` stopped: play, learning, or both.

    \b
    Example:
      perdure resume
    """
    from perdure.memory.processes import pauses
    from perdure.memory.processes import resume as end
    from perdure.memory.store import open_store

    with open_store(home) as store:
        ended = [one for one in _both(what) if end(store, one)]
        listed = [one.as_json() for one in pauses(store)]
    if not ended:
        raise InputError(f"{what or 'nothing'} {'is not' if what else 'is'} paused: `perdure status` shows what is")
    if as_json:
        print_json(listed)
        return
    click.echo(f"{' and '.join(ended)} resumed.".capitalize())


def _both(what: Pausable | None) -> Sequence[Pausable]:
    return ("play", "learning") if what is None else (what,)
