"""`perdure web`: the page and the API over a home, with or without a daemon."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

import click

from perdure.agent.show.terminal import config_option, home_option


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
