"""The journal's process: `python -m perdure.agent.cluster.journal.journal_server --home DIR [--config FILE]`, a child of the supervisor.

It answers HTTP on `cluster.listen`, for those who have the token of `cluster.token_file`. It may die at any moment: what it acknowledged is
in the store, and the next one goes on with the episodes in play. Left out: what it answers (`ledger.py`), and encryption (docs/cluster.md).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perdure.agent.cluster.cluster_settings import ClusterSection
from perdure.agent.cluster.cluster_token import cluster_token
from perdure.agent.cluster.journal.journal_messages import MOST_BYTES, Body, read_message
from perdure.agent.cluster.journal.known_players import KnownPlayers, PlayerFenced, PlayerGone
from perdure.agent.cluster.journal.ledger import PATHS
from perdure.agent.cluster.journal.version_parts import version_part
from perdure.agent.cluster.journal.writer import Writer
from perdure.agent.config_file import load_config
from perdure.agent.processes.child import child_parser, run_child
from perdure.agent.processes.process_names import JOURNAL
from perdure.agent.web.patience import PatientProtocol
from perdure.agent.web.patient_server import serve_until
from perdure.agent.web_conditions import listen
from perdure.memory.errors import InputError, LeaseLost, PerdureError, Unavailable
from perdure.memory.processes import beat

ANSWER_S = 60.0
"""The longest that an answer may take."""
TYPE = (b"content-type", b"application/octet-stream")

KINDS: tuple[tuple[type[PerdureError], int, str], ...] = (
    (PlayerGone, 410, "gone"),
    (PlayerFenced, 403, "fenced"),
    (LeaseLost, 409, "lease lost"),
    (Unavailable, 503, "unavailable"),
    (InputError, 400, "input"),
    (PerdureError, 422, "failed"),
)
"""Status and name of each error on the wire; the first that fits."""


def main() -> int:
    """Serve the home of a supervisor until that ends."""
    arguments = child_parser("perdure.agent.cluster.journal.journal_server", __doc__).parse_args()
    settings = load_config(arguments.config).config.cluster
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * PlayersProtocol.most)), hard))
    return run_child(lambda stop: serve_journal(arguments.home, settings, stop))


def serve_journal(home: Path, settings: ClusterSection, stop: Callable[[], bool]) -> None:
    """Serve until `stop`. Raises `InputError` or `Unavailable` if it cannot listen at its address, and as `cluster_token` does."""
    token = cluster_token(home, settings)
    players = KnownPlayers(settings.node_timeout_s)

    def say(store: Any) -> None:
        known = players.all()
        detail = f"at {settings.listen}:{settings.journal_port}: {len(known)} player{'' if len(known) == 1 else 's'}"
        beat(store, JOURNAL, os.getpid(), "serving", detail)

    with listen(settings.listen, settings.journal_port, "cluster.listen", "cluster.journal_port") as listener:
        writer = Writer(home, players, say)
        writer.start()
        try:
            asyncio.run(serve_until(JournalApp(home, token, players, writer), listener, stop, protocol=PlayersProtocol))
        finally:
            writer.end()


class JournalApp:
    """The ASGI application. Every request is a POST of one body, and is answered with one."""

    def __init__(self, home: Path, token: str, players: KnownPlayers, writer: Writer) -> None:
        self._home = home
        self._token = hashlib.sha256(token.encode()).digest()
        self._players = players
        self._writer = writer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        status, body = await self._answered(scope, receive)
        packed = body.packed()
        headers = [TYPE, (b"content-length", str(len(packed)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": packed})

    async def _answered(self, scope: Any, receive: Any) -> tuple[int, Body]:
        headers = dict(scope["headers"])
        if not self._may_ask(headers.get(b"authorization", b"")):
            return 401, _said("token", "another token is needed: that of cluster.token_file on the head")
        path = scope["path"].removeprefix("/")
        if scope["method"] != "POST" or path not in (*PATHS, "version-part"):
            return 404, _said("input", f"the journal knows no {path!r}")
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or int(length) > MOST_BYTES:
            return 413, _said("input", f"a body has a length, of at most {MOST_BYTES} bytes")
        given = await _received(receive, int(length))
        if given is None:
            return 400, _said("input", "the body was cut off")
        try:
            return 200, await asyncio.wait_for(self._act(path, read_message(given)), ANSWER_S)
        except TimeoutError:
            return 503, _said("unavailable", f"the store has taken nothing for {ANSWER_S:.0f} s")
        except PerdureError as error:
            status, kind = next((status, kind) for known, status, kind in KINDS if isinstance(error, known))
            return status, _said(kind, str(error))

    async def _act(self, path: str, body: Body) -> Body:
        if path == "ping" and self._players.heard(str(body.head.get("player")), str(body.head.get("doing"))):
            return Body(head={})  # also while the store takes nothing
        if path == "version-part":
            return await asyncio.to_thread(version_part, self._home, body.head)
        return Body(head=await asyncio.wrap_future(self._writer.ask(path, body)))

    def _may_ask(self, given: bytes) -> bool:
        """Whether this is the token; takes as long for every wrong one."""
        kind, _, token = given.partition(b" ")
        return hmac.compare_digest(hashlib.sha256(token).digest(), self._token) and kind.lower() == b"bearer"


def _said(kind: str, message: str) -> Body:
    return Body(head={"error": kind, "message": message})


async def _received(receive: Any, length: int) -> bytes | None:
    """A body of this length; None if it is another."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > length:
            return None
        if not message.get("more_body", False):
            return b"".join(parts) if size == length else None


class PlayersProtocol(PatientProtocol):
    """Ends slow connections as the page does; each player has two."""

    most = 4096


if __name__ == "__main__":
    sys.exit(main())
