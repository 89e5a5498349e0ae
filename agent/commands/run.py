"""`perdure run`: the daemon, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.agent.show.terminal import config_option, home_option, visible


@click.command()
@home_option
@config_option
@click.option("--cycles", type=click.IntRange(min=1), metavar="N", help="End after N verdicts.")
@click.option(
    "--until-promoted",
    is_flag=True,
    help="End at the first promotion. Exit code 1 after learn.max_cycles (or --cycles) verdicts without one.",
)
@click.option("--tasks", type=click.IntRange(min=1), metavar="N", help="End after N tasks.")
@click.pass_context
def run(ctx: click.Context, home: Path, config_path: Path | None, cycles: int | None, until_promoted: bool, tasks: int | None) -> None:
    """Play, learn, gate and promote, until it is stopped (Ctrl-C; twice to stop at once).

    Without --cycles, --until-promoted and --tasks it never ends by itself. Progress goes to stderr, the result to stdout. Exit code 3 if
    its processes die again and again; perdure status tells why.

    \b
    Example:
      perdure run
      perdure run --until-promoted
      perdure --home /var/lib/perdure run --config perdure.toml --tasks 100
    """
    from perdure.agent.config_file import load_config
    from perdure.agent.show.live_view import watching
    from perdure.agent.show.summary import mark, show, summarise
    from perdure.agent.supervision.limits import Limits
    from perdure.agent.supervision.supervisor import supervising

    loaded = load_config(config_path)
    limits = Limits(
        cycles=cycles,
        until_promoted=until_promoted,
        tasks=tasks,
        max_cycles=loaded.config.learn.max_cycles,
        tries=loaded.config.supervise.tries,
    )
    with supervising(home, loaded, limits) as supervisor:
        began = mark(supervisor.store)
        with watching(home, json_log=loaded.config.log.form == "json"):
            ended = supervisor.run()
        summary = summarise(supervisor.store, began)
    if ended.code >= 2:
        click.echo(f"perdure: {visible(ended.reason)}", err=True)
    if ended.code < 2 or summary.played or summary.jobs:
        show(summary, ended)
    ctx.exit(ended.code)
