"""HTTP to the vLLM server of a home: where it answers, and one request at a time limit on connections that are used again.

Whoever starts the server (`agent/processes/vllm_server.py`) writes `run/vllm.json`, readable for its user alone; whoever samples reads
it. What is asked of the server, and what its answers mean, is `vllm_engine.py`.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.errors import RuntimeFailure, Unavailable

POLL_S = 0.2
SHORT_S = 10.0
"""The limit of a request that no model has to compute for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a vLLM server answers, on this machine alone."""

    url: str
    key: str = field(repr=False)
    pid: int
    """Of the process that started it; another one is another server, which has no adapters yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back: the status, and the JSON document, or the text where it is none."""

    status: int
    data: Any

    @property
    def message(self) -> str:
        """What an error says."""
        error = self.data.get("error", self.data) if isinstance(self.data, dict) else self.data
        said = error.get("message", error) if isinstance(error, dict) else error
        return " ".join(str(said).split())[:500]


class ServerGone(ConnectionError):
    """Nobody answers: it is not there, or it closed the connection."""


class ServerHangs(TimeoutError):
    """No answer came in time."""


class Client:
    """Requests to one server. Threads may share it: each request has a connection to itself, and leaves it for the next one."""

    def __init__(self, server: Server) -> None:
        self.server = server
        place = urlsplit(server.url)
        self._host, self._port = place.hostname or "127.0.0.1", place.port
        self._headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
        self._idle: deque[HTTPConnection] = deque()
        self._closed = False

    def get(self, path: str) -> Answer:
        return self._ask("GET", path, None, SHORT_S)

    def post(self, path: str, body: Mapping[str, Any], timeout_s: float = SHORT_S) -> Answer:
        """Raises `ServerGone` where nobody answers, `ServerHangs` where no answer comes in time."""
        return self._ask("POST", path, json.dumps(body).encode(), timeout_s)

    def close(self) -> None:
        """Let go of its connections; one that another thread uses closes when it has its answer."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _ask(self, method: str, path: str, body: bytes | None, timeout_s: float) -> Answer:
        while True:
            with suppress(IndexError):
                kept = self._idle.pop()
                try:
                    return self._exchange(kept, method, path, body, timeout_s)
                except ServerGone:  # the server closes connections that were idle for long: another one tells whether it is there
                    continue
            return self._exchange(HTTPConnection(self._host, self._port), method, path, body, timeout_s)

    def _exchange(self, connection: HTTPConnection, method: str, path: str, body: bytes | None, timeout_s: float) -> Answer:
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        try:
            connection.request(method, path, body, self._headers)
            response = connection.getresponse()
            text = response.read()
        except TimeoutError as error:
            connection.close()
            raise ServerHangs(f"no answer to {path} in {timeout_s:g} s") from error
        except (OSError, HTTPException) as error:
            connection.close()
            raise ServerGone(f"no answer to {path}: {error or type(error).__name__}") from error
        self._idle.append(connection)
        if self._closed:
            self.close()
        try:
            return Answer(status=response.status, data=json.loads(text))
        except ValueError:
            return Answer(status=response.status, data=text.decode("utf-8", "replace"))


def base_name(files: ModelFiles) -> str:
    """What the server calls the base model. Another base model has another name, so that answers of a wrong server are known as such."""
    return f"base-{files.hash[:12]}"


def server_file(home: Path) -> Path:
    return home / "run" / "vllm.json"


def write_server(home: Path, server: Server) -> None:
    """Say where the server answers, to processes of this user alone."""
    made = server_file(home).with_suffix(".making")
    made.unlink(missing_ok=True)
    with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(server), file)
    made.replace(server_file(home))


def read_server(home: Path) -> Server | None:
    """Where the server of this home answers; None where none has said so."""
    try:
        return Server(**json.loads(server_file(home).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def restart_file(home: Path) -> Path:
    return home / "run" / "vllm.restart"


def ask_for_restart(home: Path, server: Server) -> None:
    """Have this very server ended and started again, by whoever keeps it."""
    restart_file(home).write_text(str(server.pid))


def wait_for_server(home: Path, limit_s: float, after: Server | None = None) -> Client:
    """The server of a home once it answers; with `after`, the one that comes after that one.

    Raises `Unavailable` where it does not answer in time, `RuntimeFailure` where it refuses the key that it was started with.
    """
    deadline = time.monotonic() + limit_s
    while True:
        server = read_server(home)
        if server is not None and server != after:
            client = Client(server)
            status = 0
            with suppress(ServerGone, ServerHangs):
                status = client.get("/v1/models").status
            if status == 200:
                return client
            client.close()
            if status in (401, 403):
                raise RuntimeFailure(f"{server.url} refuses the key in {server_file(home)}: another program answers there, end it")
        if time.monotonic() > deadline:
            raise Unavailable(f"no vLLM server has answered for {home} in {limit_s:g} s: its log is logs/vllm.log in the home")
        time.sleep(POLL_S)
