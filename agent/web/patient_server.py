"""A server on a socket that listens already, until it is told to end: the page's, and the journal's of a cluster.

Connections have an end to their patience (`patience.py`), and signals are left to the process, which may have other things to end.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from perdure.agent.web.patience import HEAD_BYTES, IDLE_S, PatientProtocol

LOOK_S = 0.25
"""How often it looks whether it is to end."""


def nothing_more() -> None:
    """There is nothing else to look after, or to end."""


async def serve_until(
    app: Any,
    listener: socket.socket,
    stop: Callable[[], bool],
    *,
    protocol: type[PatientProtocol] = PatientProtocol,
    each_look: Callable[[], None] = nothing_more,
    at_end: Callable[[], None] = nothing_more,
) -> None:
    """Answer with `app`, an ASGI application, until `stop`. `each_look` is called every moment, and `at_end` before connections end."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=2,
        ws="none",
        lifespan="off",
        loop="asyncio",
        http=protocol,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    server = _Server(config)

    async def watch() -> None:
        while not stop():
            each_look()
            await asyncio.sleep(LOOK_S)
        at_end()
        server.should_exit = True

    watching = asyncio.create_task(watch())
    try:
        await server.serve(sockets=[listener])
    finally:
        watching.cancel()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
