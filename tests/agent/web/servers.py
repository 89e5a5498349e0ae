"""Web servers in processes of their own, and requests to them: whole, in pieces, and as no browser would send them."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_S = 90.0


def free_port() -> int:
    """A port that no program listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(kw_only=True)
class Server:
    """A page of a home: who asks it, and what its process says."""

    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None
    timeout_s: float = 60.0

    @property
    def token(self) -> str:
        return (self.home / "run" / "token").read_text().strip()

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | str | None = None) -> Answer:
        """One request on a connection of its own. Without `headers` with the token; with them as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout_s)
        try:
            connection.request(method, path, body, dict(self.bearer if headers is None else headers))
            answer = connection.getresponse()
            return Answer(status=answer.status, headers={name.lower(): value for name, value in answer.getheaders()}, body=answer.read())
        finally:
            connection.close()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("GET", path, headers)

    @contextmanager
    def raw(self) -> Iterator[socket.socket]:
        """A connection on which anything can be sent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=self.timeout_s) as connection:
            yield connection

    def sign_in(self) -> dict[str, str]:
        """The headers of a browser that has signed in."""
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self.ask("POST", "/act/login", form, f"token={self.token}")
        assert answer.status == 303, answer.text
        return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}

    def said(self) -> str:
        assert self.log is not None
        return self.log.read_text()

    def answers(self) -> bool:
        try:
            return self.get("/livez", {}).status == 200
        except OSError:
            return False


@contextmanager
def serving(
    home: Path, settings: str = "", *, python: Sequence[str] = (), prefix: Sequence[str] = (), interpreter: str = sys.executable
) -> Iterator[Server]:
    """`perdure web` over a home while this lasts; `python` are options of its interpreter, `prefix` a program that runs it.

    Another interpreter has its own packages, and sees nothing of this tree.
    """
    port = free_port()
    log, config = home.parent / f"web-{port}.log", home.parent / f"web-{port}.toml"
    config.write_text(f"[web]\nport = {port}\n{settings}")
    words = [*prefix, interpreter, *python, "-m", "perdure", "web", "--home", str(home), "--config", str(config)]
    hidden = () if interpreter == sys.executable else ("PYTHONPATH", "PYTHONHOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    with log.open("wb") as output:
        process = subprocess.Popen(words, cwd=home.parent, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    server = Server(home=home, port=port, process=process, log=log)
    try:
        wait_for("the server", lambda: server.answers() or process.poll() is not None)
        assert process.poll() is None, server.said()
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(what: str, condition: Any, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes; an abrupt end is an end too."""
    found = bytearray()
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionError:
        pass
    return bytes(found)
