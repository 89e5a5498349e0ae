"""A client of environment servers that speak OpenEnv, tried with those of openenv-core 0.3.0.

It implements the protocol itself (`/schema` over HTTP, episodes as JSON over a WebSocket): OpenEnv's own client takes seconds to import and
depends on a web server. Each episode is a session of its own. How servers are handled:
- Actions and observations are JSON objects. The reply of the policy goes into one field of the action: the one that the option `action`
  names, otherwise the only required field, otherwise the only one. Of an observation the field that the option `observation` names is
  shown, otherwise its only text field, otherwise all fields.
- A reply that the server does not accept as an action ends the episode without success, and `info["invalid_action"]` has the reason.
- Every reset sends the seed, but a server whose `reset` has no `seed` ignores it silently: `env check` finds that.
- A server has one session unless it is set up for more (`max_concurrent_envs`): if none is free, the episode is an `env_error`.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, cast
from urllib.error import URLError
from urllib.parse import urlsplit

import gymnasium

from perdure.envs.answers import bare
from perdure.envs.environment import AnyText, Info, ResetResult, StepResult, TextEnv
from perdure.envs.sources.factory import EnvironmentFactory
from perdure.envs.sources.packages import imported
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.json_value import JsonObject, JsonValue

CONNECT_S = 10.0
ANSWER_S = 60.0
PATIENCE_S = 2.0
"""How long to wait for a free session: a server takes a moment to end one that was closed."""
LARGEST_BYTES = 2**24
OURS = ("metadata", "done", "reward")
"""Fields of every action or observation that are not the environment's own."""
INVALID, FULL = "VALIDATION_ERROR", "CAPACITY_REACHED"
"""The codes of a server for an action that its schema does not allow, and for a session too many."""
REQUIRED = {"reset": ("observation",), "step": ("observation", "done", "reward")}
"""What the answer to a message must have; a reward may be null."""


def find(id_: str) -> EnvironmentFactory:
    """The environment behind a URL. Raises `InputError` if it is not a URL; the server is not asked yet."""
    if urlsplit(id_).scheme not in ("http", "https") or not urlsplit(id_).hostname:
        raise InputError(f"openenv:{id_} is not a server: write openenv:http://HOST:PORT")
    imported("openenv")
    url = id_.rstrip("/")

    def make(*, action: str = "", observation: str = "") -> TextEnv:
        return OpenEnvSession(url, action, observation)

    return EnvironmentFactory(make=make, options={"action": "", "observation": ""})


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaField:
    """One field of an action or an observation of a server."""

    name: str
    type: str
    """As JSON schemas name it; empty if there is none."""
    required: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSchema:
    """The fields of a server's actions and observations that are the environment's own."""

    action: tuple[SchemaField, ...]
    observation: tuple[SchemaField, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The answer of a server to a reset or a step."""

    observation: JsonObject
    """Shown field by field, or one field of it."""
    reward: object
    """Unchecked; `guarded.py` checks it."""
    done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The answer of a server to a reset or a step that it did not accept."""

    code: str
    complaint: str


class OpenEnvSession(gymnasium.Env[str, str]):
    """One environment of a server: every episode is a session of its own."""

    observation_space = action_space = AnyText()
    instructions = "Reply with only your action."

    def __init__(self, url: str, action: str, observation: str) -> None:
        schema = _schema(url)
        self._url = url
        self._action = _chosen_field(url, "action", action, schema.action)
        texts = [field.name for field in schema.observation if field.type == "string"]
        self._observation = _chosen_field(url, "observation", observation, schema.observation).name if observation else None
        if self._observation is None and len(texts) == 1:
            self._observation = texts[0]
        self._open = ExitStack()
        self._session: Any = None
        self._over = True

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> ResetResult:
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**32)) if seed is None else seed
        until_s = time.monotonic() + PATIENCE_S
        while True:
            self._connect()
            answer = self._ask("reset", {"seed": number})
            if isinstance(answer, Observed):
                break
            if answer.code != FULL or time.monotonic() > until_s:
                raise RuntimeFailure(f"openenv:{self._url} failed at reset: {answer.complaint}")
            time.sleep(0.02)
        self._over = False
        return self._shown(answer.observation), {}

    def step(self, action: str) -> StepResult:
        if self._over:
            raise RuntimeError("this episode has ended: call reset() before the next step")
        answer = self._ask("step", {self._action.name: self._value(action)})
        if isinstance(answer, Refusal):
            if answer.code != INVALID:
                raise RuntimeFailure(f"openenv:{self._url} failed at step: {answer.complaint}")
            self._over = True
            return "", 0.0, True, False, {"success": False, "invalid_action": answer.complaint}
        self._over = answer.done
        return self._shown(answer.observation), cast("float", answer.reward), self._over, False, {}

    def close(self) -> None:
        self._session = None
        self._open.close()

    def _connect(self) -> None:
        self.close()
        connect = imported("openenv", "websockets.sync.client").connect
        address = f"ws{self._url.removeprefix('http')}/ws"
        try:
            self._session = self._open.enter_context(connect(address, open_timeout=CONNECT_S, max_size=LARGEST_BYTES, proxy=None))
        except (OSError, TimeoutError) as error:
            raise RuntimeFailure(f"openenv:{self._url} does not answer: {error}") from error

    def _ask(self, kind: str, data: JsonObject) -> Observed | Refusal:
        """The server's answer to a message."""
        closed = imported("openenv", "websockets.exceptions").ConnectionClosed
        try:
            with suppress(closed):  # a full server answers and closes, perhaps before it was asked
                self._session.send(json.dumps({"type": kind, "data": data}))
            answer = json.loads(self._session.recv(timeout=ANSWER_S))
        except (closed, TimeoutError, ValueError) as error:
            raise RuntimeFailure(f"openenv:{self._url} broke the connection at {kind}: {error}") from error
        return self._read_answer(kind, answer["type"], answer["data"])

    def _read_answer(self, asked: str, kind: str, data: Any) -> Observed | Refusal:
        if kind == "error":
            details = "; ".join(f"{'.'.join(map(str, error.get('loc', ())))}: {error.get('msg', '')}" for error in data.get("errors", ()))
            complaint = f"{data.get('message', 'no reason given')}" + (f" ({details})" if details else "")
            return Refusal(code=str(data.get("code", "")), complaint=complaint)
        missing = [key for key in REQUIRED[asked] if key not in data]
        if missing:
            raise RuntimeFailure(f"openenv:{self._url} answered {asked} without {' and '.join(missing)}")
        reward = data.get("reward")
        return Observed(observation=data["observation"], reward=0.0 if reward is None else reward, done=bool(data.get("done")))

    def _value(self, action: str) -> JsonValue:
        """The reply as the value of its field: text as it is, a number or a truth value if it can be read as one."""
        if self._action.type in ("string", ""):
            return action
        try:
            value: JsonValue = json.loads(bare(action).casefold())
        except ValueError:
            return action
        return value

    def _shown(self, observation: JsonObject) -> str:
        if self._observation is not None:
            return _format(observation.get(self._observation, ""))
        return "\n".join(f"{name}: {_format(value)}" for name, value in observation.items())


@cache
def _schema(url: str) -> ServerSchema:
    """Asks a server for its schema. Raises `InputError` if it does not answer as a server of OpenEnv does."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/schema", timeout=CONNECT_S) as answer:
            schema = json.load(answer)
        return ServerSchema(action=_own_fields(schema["action"]), observation=_own_fields(schema["observation"]))
    except (URLError, OSError, ValueError) as error:
        raise InputError(f"openenv:{url} does not answer as a server of OpenEnv: {error}. Is it running?") from error
    except (LookupError, AttributeError, TypeError) as error:
        raise InputError(
            f"openenv:{url} answers, but not as a server of OpenEnv: /schema has no fields of actions and observations"
        ) from error


def _own_fields(schema: Any) -> tuple[SchemaField, ...]:
    """The fields of a JSON schema, without those that every server has."""
    required = schema.get("required", ())
    return tuple(
        SchemaField(name=name, type=str(about.get("type", "")), required=name in required)
        for name, about in schema["properties"].items()
        if name not in OURS
    )


def _chosen_field(url: str, kind: str, wanted: str, fields: Sequence[SchemaField]) -> SchemaField:
    """The field of this name; without a name, the only required one, else the only one."""
    required = [field for field in fields if field.required]
    for field in fields:
        if field.name == wanted:
            return field
    if not wanted and len(required) == 1:
        return required[0]
    if not wanted and len(fields) == 1:
        return fields[0]
    wrong = f"has no field {wanted!r}" if wanted else "has several fields"
    raise InputError(f"openenv:{url}: its {kind} {wrong}: set {kind}=NAME, one of {', '.join(field.name for field in fields) or 'none'}")


def _format(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
