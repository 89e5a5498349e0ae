"""A real HTTP server on loopback that answers as a test wants, and keeps what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(slots=True, kw_only=True)
class Listener:
    """The server. `answers` says how each next request is answered; the last one stays."""

    answers: list[Answer]
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    """Set at the end, for answers that hang."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def code(number: int, **headers: str) -> Answer:
    """An answer with this code."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(number)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


@contextmanager
def listening(*answers: Answer) -> Iterator[Listener]:
    """A server while this lasts."""
    listener = Listener(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            listener.asked.append(Asked(path=self.path, headers=dict(self.headers), body=body))
            (listener.answers.pop(0) if len(listener.answers) > 1 else listener.answers[0])(self)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    listener.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield listener
    finally:
        listener.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
