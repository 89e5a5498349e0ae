"""What stays in the foreground: `perdure run`, the daemon, and `perdure web`, the page and the API of a home with or without one."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType

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
@click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Play on a Ray cluster too: local, auto, or HOST:PORT. [default: cluster.address; two players if cluster.players is 0]",
)
@click.pass_context
def run(
    ctx: click.Context,
    home: Path,
    config_path: Path | None,
    cycles: int | None,
    until_promoted: bool,
    tasks: int | None,
    cluster: str | None,
) -> None:
    """Play, learn, gate and promote, until it is stopped (Ctrl-C; twice to stop at once).

    Without --cycles, --until-promoted and --tasks it never ends by itself. Progress goes to stderr, the result to stdout. Exit code 3 if
    its processes die again and again; perdure status tells why.

    \b
    Example:
      perdure run
      perdure run --until-promoted
      perdure --home /var/lib/perdure run --config perdure.toml --tasks 100
      perdure run --cluster local
    """
    from perdure.agent.config_file import CLUSTER_VARIABLE, load_config
    from perdure.agent.show.live_view import watching
    from perdure.agent.show.summary import mark, show, summarise
    from perdure.agent.supervision.limits import Limits
    from perdure.agent.supervision.supervisor import supervising

    if cluster is not None:
        os.environ[CLUSTER_VARIABLE] = cluster  # its processes read the file themselves
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


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="The port to listen on. [default: web.port]")
@home_option
@config_option
def web(port: int | None, home: Path, config_path: Path | None) -> None:
    """Serve the page and the API of a home, until it is stopped (Ctrl-C).

    A daemon serves them by itself, unless web.enabled is false; this is for homes without one. Sign in with the token in run/token of the
    home.

    \b
    Example:
      perdure web
      perdure --home old/.perdure web --port 8378
    """
    from perdure.agent.config_file import load_config
    from perdure.agent.web_conditions import address_of, require_web

    loaded = load_config(config_path)
    if port is not None:
        settings = loaded.config.web.model_copy(update={"port": port})
        loaded = loaded.with_config(loaded.config.model_copy(update={"web": settings}))
    require_web()
    from perdure.agent.web.program import serve

    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    said: list[str] = []

    def alive(address: str) -> None:
        if not said:
            said.append(address)
            click.echo(f"{address} serves {home}; Ctrl-C ends it", err=True)

    serve(home, loaded, lambda: bool(asked), alive)
    click.echo(f"{address_of(loaded.config.web)} is closed", err=True)
