"""The web process: a child of the supervisor, or `perdure web` itself. It reads the database and acts only by writing rows.

It may die without hurting play or learning; its supervisor starts it again. Left out: what it answers (`application.py`).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from perdure.agent.config import WebSection
from perdure.agent.config_file import LoadedConfig, load_config
from perdure.agent.processes.child import Stop, child_parser, run_child
from perdure.agent.processes.process_names import WEB
from perdure.agent.processes.pulse import Pulse
from perdure.agent.web.application import application
from perdure.agent.web_conditions import address_of, require_token_beyond_loopback
from perdure.memory.errors import InputError, PerdureError, Unavailable
from perdure.memory.store import open_store

LOOK_S = 0.25
"""How often it looks whether it is to end."""
CONNECTIONS = 512
"""At once; further ones get 503."""


def main() -> int:
    """Serve the home of a supervisor until that ends."""
    arguments = child_parser("perdure.agent.web.program", __doc__).parse_args()
    loaded = load_config(arguments.config)

    def work(stop: Stop) -> None:
        with open_store(arguments.home) as store:
            pulse = Pulse(store, WEB)
            serve(arguments.home, loaded, stop, lambda address: pulse.say("serving", address))

    return run_child(work)


def serve(home: Path, loaded: LoadedConfig, stop: Callable[[], bool], alive: Callable[[str], None]) -> None:
    """Serve until `stop`; call `alive` with the address every moment while requests are answered.

    Raises `InputError` if it may not or cannot listen where it is told, and as `application` does.
    """
    web = loaded.config.web
    require_token_beyond_loopback(home, web)
    app = application(home, loaded)
    with _listening(web) as listener:
        asyncio.run(_serve(app, listener, stop, lambda: alive(address_of(web))))


@contextmanager
def _listening(web: WebSection) -> Iterator[socket.socket]:
    try:
        listener = socket.create_server((web.host, web.port), family=socket.AF_INET6 if ":" in web.host else socket.AF_INET, backlog=512)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:  # perhaps by one that is about to end
            raise Unavailable(f"port {web.port} of {web.host} is in use by another program: choose another with web.port") from error
        raise InputError(
            f"cannot listen on {web.host}:{web.port}: {error.strerror or error}; choose others with web.host, web.port"
        ) from error
    with listener:
        yield listener


async def _serve(app: FastAPI, listener: socket.socket, stop: Callable[[], bool], alive: Callable[[], None]) -> None:
    server = _Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=2,
            ws="none",
            lifespan="off",
            loop="asyncio",
            http="h11",
        )
    )

    async def watch() -> None:
        while not stop():
            with suppress(PerdureError):  # a full disk, say: reading goes on
                alive()
            await asyncio.sleep(LOOK_S)
        app.state.live.close()  # else their streams would hold the server up
        server.should_exit = True

    watching = asyncio.create_task(watch())
    try:
        await server.serve(sockets=[listener])
    finally:
        watching.cancel()


class _Server(uvicorn.Server):
    """Leaves signals to the process, which may have other things to end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


if __name__ == "__main__":
    sys.exit(main())
