"""The web process: a child of the supervisor, or `perdure web` itself. It reads the database and acts only by writing rows.

It may die without hurting play or learning; its supervisor starts it again. Left out: what it answers (`application.py`).
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue

from perdure.agent.config_file import LoadedConfig, load_config
from perdure.agent.processes.child import Stop, child_parser, run_child
from perdure.agent.processes.process_names import WEB
from perdure.agent.processes.pulse import BEAT_S
from perdure.agent.web.application import application
from perdure.agent.web.patient_server import serve_until
from perdure.agent.web.tokens import TokenFile, token_path
from perdure.agent.web_conditions import address_of, listen, require_token_beyond_loopback
from perdure.memory.errors import PerdureError
from perdure.memory.processes import beat
from perdure.memory.store import open_store


def main() -> int:
    """Serve the home of a supervisor until that ends."""
    arguments = child_parser("perdure.agent.web.program", __doc__).parse_args()
    loaded = load_config(arguments.config)

    def work(stop: Stop) -> None:
        serve(arguments.home, loaded, stop, _beating(arguments.home))

    return run_child(work)


def serve(home: Path, loaded: LoadedConfig, stop: Callable[[], bool], alive: Callable[[str], None]) -> None:
    """Serve until `stop`; call `alive` with the address every moment while requests are answered.

    Raises `InputError` if it may not or cannot listen at its address, and as `application` does.
    """
    web = loaded.config.web
    require_token_beyond_loopback(home, web)
    app = application(home, loaded)
    token = TokenFile(token_path(home, web.token_file), app.state.sessions, links=bool(web.token_file))

    def watch() -> None:
        trouble = token.look()
        if trouble is not None:
            print(f"{trouble}; until then nobody is let in", file=sys.stderr, flush=True)
        alive(address_of(web))

    with listen(web.host, web.port, "web.host", "web.port") as listener:
        # its streams of events would hold the server up
        asyncio.run(serve_until(app, listener, stop, each_look=watch, at_end=app.state.live.close))


def _beating(home: Path) -> Callable[[str], None]:
    """What the loop calls again and again while it goes on. A thread writes that down, since a write may have to wait."""
    said: Queue[str] = Queue(1)

    def write() -> None:
        while True:
            address = said.get()
            with suppress(PerdureError), open_store(home) as store:
                beat(store, WEB, os.getpid(), "serving", address)
            time.sleep(BEAT_S)

    def alive(address: str) -> None:
        with suppress(Full):
            said.put_nowait(address)

    threading.Thread(target=write, name="beats", daemon=True).start()
    return alive


if __name__ == "__main__":
    sys.exit(main())
