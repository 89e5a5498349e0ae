"""A client of environment servers that speak OpenEnv, tried with those of openenv-core 0.3.0.

It speaks the protocol itself (`/schema` over HTTP, episodes as JSON over a WebSocket): OpenEnv's own client takes seconds to import and
brings a web server with it. Each episode is a session of its own. What it does about what servers do:
- Actions and observations are JSON objects. The reply of the policy goes into one field of the action: the only one that is required,
  or that there is, else the one that the option `action` names. An observation is shown by its only text field, else field by field, else
  by the one that the option `observation` names.
- A reply that the server does not take as an action ends the episode without success, and `info["invalid_action"]` says why.
- The seed goes with every reset, but a server whose `reset` has no `seed` drops it without a word: `env check` finds that.
- A server has one session unless it was told otherwise (`max_concurrent_envs`): where none is free, the episode is an `env_error`.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import cache
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

import gymnasium

from perdure.envs.answers import bare
from perdure.envs.environment import AnyText, TextEnv
from perdure.envs.sources.packages import imported
from perdure.memory.errors import InputError, RuntimeFailure

CONNECT_S = 10.0
ANSWER_S = 60.0
PATIENCE_S = 2.0
"""For a free session: a server takes a moment to let go of one that was closed."""
LARGEST_BYTES = 2**24
OURS = ("metadata", "done", "reward")
"""Fields of every action or observation that are not the environment's own."""
INVALID, FULL = "VALIDATION_ERROR", "CAPACITY_REACHED"
"""What a server says to an action that its schema does not allow, and to one session too many."""


def find(id_: str) -> tuple[Callable[..., TextEnv], dict[str, Any]]:
    """How to make the environment behind a URL, and its options. Raises `InputError` for what is no URL; nothing is asked of the server."""
    if urlsplit(id_).scheme not in ("http", "https") or not urlsplit(id_).hostname:
        raise InputError(f"openenv:{id_} is no server: it is openenv:http://HOST:PORT")
    imported("openenv")
    return lambda **options: Remote(id_.rstrip("/"), **options), {"action": "", "observation": ""}


class Remote(gymnasium.Env[str, str]):
    """One environment of a server: every episode is a session of its own."""

    observation_space = action_space = AnyText()
    instructions = "Reply with only your action."

    def __init__(self, url: str, action: str = "", observation: str = "") -> None:
        schema = _schema(url)
        self._url = url
        self._action = _chosen(url, "action", action, schema["action"])
        self._type = schema["action"]["properties"][self._action].get("type", "string")
        texts = [name for name, about in _own(schema["observation"]).items() if about.get("type") == "string"]
        self._observation = _chosen(url, "observation", observation, schema["observation"]) if observation else None
        if self._observation is None and len(texts) == 1:
            self._observation = texts[0]
        self._held = ExitStack()
        self._session: Any = None
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**32)) if seed is None else seed
        until = time.monotonic() + PATIENCE_S
        while True:
            self._connect()
            kind, data = self._ask("reset", {"seed": number})
            if kind != "error":
                break
            if data.get("code") != FULL or time.monotonic() > until:
                raise RuntimeFailure(f"openenv:{self._url} failed at reset: {_complaint(data)}")
            time.sleep(0.02)
        self._over = False
        return self._shown(data["observation"]), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self._over:
            raise RuntimeError("this episode has ended: call reset() before the next step")
        kind, data = self._ask("step", {self._action: self._value(action)})
        if kind == "error" and data.get("code") == INVALID:
            self._over = True
            return "", 0.0, True, False, {"success": False, "invalid_action": _complaint(data)}
        if kind == "error":
            raise RuntimeFailure(f"openenv:{self._url} failed at step: {_complaint(data)}")
        self._over = bool(data["done"])
        reward = data["reward"]
        return self._shown(data["observation"]), 0.0 if reward is None else reward, self._over, False, {}

    def close(self) -> None:
        self._session = None
        self._held.close()

    def _connect(self) -> None:
        self.close()
        connect = imported("openenv", "websockets.sync.client").connect
        address = f"ws{self._url.removeprefix('http')}/ws"
        try:
            self._session = self._held.enter_context(connect(address, open_timeout=CONNECT_S, max_size=LARGEST_BYTES, proxy=None))
        except (OSError, TimeoutError) as error:
            raise RuntimeFailure(f"openenv:{self._url} does not answer: {error}") from error

    def _ask(self, kind: str, data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """What the server says to a message: the kind of its answer, and what is in it."""
        closed = imported("openenv", "websockets.exceptions").ConnectionClosed
        try:
            with suppress(closed):  # a server that is full says so and closes, perhaps before it is asked
                self._session.send(json.dumps({"type": kind, "data": data}))
            answer = json.loads(self._session.recv(timeout=ANSWER_S))
        except (closed, TimeoutError, ValueError) as error:
            raise RuntimeFailure(f"openenv:{self._url} broke off at {kind}: {error}") from error
        return answer["type"], answer["data"]

    def _value(self, action: str) -> Any:
        """The reply as its field has it: text as it is, a number or a truth value where it can be read as one."""
        if self._type == "string":
            return action
        try:
            return json.loads(bare(action).casefold())
        except ValueError:
            return action

    def _shown(self, observation: Mapping[str, Any]) -> str:
        if self._observation is not None:
            return _written(observation.get(self._observation, ""))
        return "\n".join(f"{name}: {_written(value)}" for name, value in observation.items())


@cache
def _schema(url: str) -> dict[str, Any]:
    """The JSON schemas of a server's actions and observations."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/schema", timeout=CONNECT_S) as answer:
            schema: dict[str, Any] = json.load(answer)
        for kind in ("action", "observation"):
            schema[kind]["properties"].items()
    except (URLError, OSError, ValueError) as error:
        raise InputError(f"openenv:{url} does not answer as a server of OpenEnv: {error}. Is it running?") from error
    except (LookupError, AttributeError, TypeError) as error:
        raise InputError(
            f"openenv:{url} answers, but not as a server of OpenEnv: /schema has no fields of actions and observations"
        ) from error
    return schema


def _own(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {name: about for name, about in schema["properties"].items() if name not in OURS}


def _chosen(url: str, kind: str, asked: str, schema: Mapping[str, Any]) -> str:
    """The field that was asked for, else the only one that must be given, else the only one."""
    fields = _own(schema)
    required = [name for name in fields if name in schema.get("required", ())]
    if asked in fields:
        return asked
    if not asked and len(required) == 1:
        return required[0]
    if not asked and len(fields) == 1:
        return next(iter(fields))
    wrong = f"has no field {asked!r}" if asked else "has several fields"
    raise InputError(f"openenv:{url}: its {kind} {wrong}: set {kind}=NAME, one of {', '.join(fields) or 'none'}")


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _complaint(data: Mapping[str, Any]) -> str:
    details = "; ".join(f"{'.'.join(map(str, one.get('loc', ())))}: {one.get('msg', '')}" for one in data.get("errors", ()))
    return f"{data.get('message', 'no reason given')}" + (f" ({details})" if details else "")
