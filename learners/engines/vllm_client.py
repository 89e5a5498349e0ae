"""An HTTP client for a vLLM server of a home, and the file that says where the server is.

The process that starts a server (`agent/processes/vllm/vllm_server.py`) writes `run/vllm.json`, which only its user can read; engines
read it (`vllm_replicas.py`). A home has one server, or several replicas of it: the second one's file is `run/vllm-2.json`. Connections are
reused, and every request has a time limit.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NotRequired, TypedDict
from urllib.parse import urlsplit

from perdure.envs.policy import Ids
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.errors import RuntimeFailure, Unavailable

POLL_S = 0.2
SHORT_S = 10.0
"""Time limit of a request that needs no computation of the model."""


class Completion(TypedDict):
    """Body of `/v1/completions`."""

    model: str
    prompt: Sequence[Ids] | Sequence[int]
    max_tokens: int
    temperature: NotRequired[float]
    seed: NotRequired[int | None]
    top_p: NotRequired[float]
    top_k: NotRequired[int]
    stop_token_ids: NotRequired[list[int]]
    ignore_eos: NotRequired[bool]
    logprobs: NotRequired[int]
    """Alternatives of each token whose log-probs are wanted; 0 gives that of the sampled token alone."""
    prompt_logprobs: NotRequired[int]
    """The same of the tokens of the prompt."""
    return_token_ids: NotRequired[bool]
    return_tokens_as_token_ids: NotRequired[bool]


class Adapter(TypedDict):
    """Body of `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`."""

    lora_name: str
    lora_path: NotRequired[str]
    """Only to load it."""


Body = Completion | Adapter | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The address of a vLLM server on this machine."""

    url: str
    key: str = field(repr=False)
    pid: int
    """Of the process that started it; a new process is a new server, without adapters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Status of a response, and its JSON document, or its text if it is not JSON."""

    status: int
    data: Any

    @property
    def message(self) -> str:
        """The message of an error."""
        error = self.data.get("error", self.data) if isinstance(self.data, dict) else self.data
        message = error.get("message", error) if isinstance(error, dict) else error
        return " ".join(str(message).split())[:500]


class ServerGone(ConnectionError):
    """No server answers, or it closed the connection."""


class ServerHangs(TimeoutError):
    """The server did not answer in time."""


class Client:
    """Requests to one server. Threads may share it: each request has its own connection, which later requests reuse."""

    def __init__(self, server: Server) -> None:
        self.server = server
        place = urlsplit(server.url)
        self._host, self._port = place.hostname or "127.0.0.1", place.port
        self._headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
        self._idle: deque[HTTPConnection] = deque()
        self._closed = False

    def get(self, path: str) -> Answer:
        return self._ask("GET", path, None, SHORT_S)

    def post(self, path: str, body: Body, timeout_s: float = SHORT_S) -> Answer:
        """Raises `ServerGone` if no server answers, `ServerHangs` if the answer does not come in time."""
        return self._ask("POST", path, json.dumps(body or {}).encode(), timeout_s)

    def close(self) -> None:
        """Close the connections; one that another thread uses is closed after its answer."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _ask(self, method: str, path: str, body: bytes | None, timeout_s: float) -> Answer:
        while True:
            with suppress(IndexError):
                connection = self._idle.pop()
                try:
                    return self._exchange(connection, method, path, body, timeout_s)
                except ServerGone:  # the server closes connections that were idle for long: try a new one
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
    """The name of the base model on the server. It contains the model's hash, so a server with another model is noticed."""
    return f"base-{files.hash[:12]}"


def server_name(replica: int) -> str:
    """The name of a replica's process, and of its log and its files: `vllm`, `vllm-2`, `vllm-3` ..."""
    return "vllm" if replica == 0 else f"vllm-{replica + 1}"


def server_file(home: Path, replica: int = 0) -> Path:
    return home / "run" / f"{server_name(replica)}.json"


def write_server(home: Path, server: Server, replica: int = 0) -> None:
    """Write the server's address, readable by this user only."""
    made = server_file(home, replica).with_suffix(".making")
    made.unlink(missing_ok=True)
    with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(server), file)
    made.replace(server_file(home, replica))


def read_server(home: Path, replica: int = 0) -> Server | None:
    """The address of a server of the home; None if there is none."""
    try:
        return Server(**json.loads(server_file(home, replica).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def restart_file(home: Path, replica: int = 0) -> Path:
    return home / "run" / f"{server_name(replica)}.restart"


def ask_for_restart(home: Path, server: Server, replica: int = 0) -> None:
    """Ask the process that started this server to restart it."""
    restart_file(home, replica).write_text(str(server.pid))


def connected(home: Path, replica: int = 0, after: Server | None = None) -> Client | None:
    """A client of a server that answers now; with `after`, of another server than that one. None if none answers.

    Raises `RuntimeFailure` if the server refuses its key.
    """
    server = read_server(home, replica)
    if server is None or server == after:
        return None
    client = Client(server)
    status = 0
    with suppress(ServerGone, ServerHangs):
        status = client.get("/v1/models").status
    if status == 200:
        return client
    client.close()
    if status in (401, 403):
        raise RuntimeFailure(f"{server.url} refuses the key in {server_file(home, replica)}: another program answers there; stop it")
    return None


def wait_for_server(home: Path, limit_s: float, after: Server | None = None, replica: int = 0) -> Client:
    """Wait until a server of the home answers; with `after`, until a server that is not that one answers.

    Raises `Unavailable` if none answers in time, `RuntimeFailure` if the server refuses its key.
    """
    deadline = time.monotonic() + limit_s
    while True:
        client = connected(home, replica, after)
        if client is not None:
            return client
        if time.monotonic() > deadline:
            raise Unavailable(f"no vLLM server has answered for {home} in {limit_s:g} s: see logs/{server_name(replica)}.log in the home")
        time.sleep(POLL_S)
