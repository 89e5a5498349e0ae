"""`perdure pause` and `perdure resume`: stop and start play or learning without ending the daemon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.agent.show.terminal import home_option, json_option, print_json, why_option

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
    from perdure.agent.changes import pauses
    from perdure.agent.changes.person import person_here
    from perdure.memory.store import open_store

    with open_store(home) as store:
        listed = pauses.pause(store, person_here(), what, reason=reason)
    if as_json:
        print_json(listed)
        return
    click.echo(f"{' and '.join(_both(what))} paused. `perdure resume{'' if what is None else f' {what}'}` goes on.".capitalize())


@click.command()
@what_argument
@why_option
@home_option
@json_option
def resume(what: Pausable | None, reason: str | None, home: Path, as_json: bool) -> None:
    """Go on with what `perdure pause` stopped: play, learning, or both.

    \b
    Example:
      perdure resume
    """
    from perdure.agent.changes import pauses
    from perdure.agent.changes.person import person_here
    from perdure.memory import processes
    from perdure.memory.store import open_store

    with open_store(home) as store:
        paused = {one.what for one in processes.pauses(store)}
        listed = pauses.resume(store, person_here(), what, reason=reason)
    ended = [one for one in _both(what) if one in paused]
    if as_json:
        print_json(listed)
        return
    click.echo(f"{' and '.join(ended)} resumed.".capitalize())


def _both(what: Pausable | None) -> Sequence[Pausable]:
    return ("play", "learning") if what is None else (what,)
