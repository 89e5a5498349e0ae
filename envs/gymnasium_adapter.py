"""Gymnasium environments as text.

An environment whose observations and actions are text is left as it is. Any other is shown like this, and an operator who wants it
otherwise writes a class with `str` on both sides and names it `py:package.module:Class`:

- Observation: the environment's own `ansi` rendering where it has one, without escapes; what they marked stands in brackets, `[x]` for
  a coloured background, `(x)` for bold, `{x}` for any other colour. Else a tuple or dictionary as `name: value` parts, an array as a
  list, a number as `state N`.
- Action (`Discrete` only): its number, or its name where it is known (`TOYS`), read as every answer is (`envs/answers.py`).
- An answer that is no action ends the episode: `success` is False, and the return is the lowest (`reward_low`), so that not playing
  never pays.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces

from perdure.envs.answers import plain
from perdure.envs.environment import DEFAULT_TURN_LIMIT, AnyText, TextEnv
from perdure.memory.errors import InputError, UnknownError

MOST_TURNS = 50
COLOURED = re.compile(r"\x1b\[([0-9;]+)m([^\x1b]*)\x1b\[0m")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """What Gymnasium does not say of its text environments."""

    instructions: str
    actions: tuple[str, ...]
    parts: tuple[str, ...] = ()
    """Names of the parts of a tuple observation."""
    reward_low: float = 0.0
    reward_high: float = 1.0
    threshold: float = 1.0
    """It has succeeded when it ends by itself with at least this return; said in `info["success"]`, so that scores are 0 or 1."""


TOYS: dict[str, Toy] = {
    "FrozenLake": Toy(
        instructions="Walk from S to G and avoid the holes H. You are at the letter in brackets. Reply with only left, down, right or up.",
        actions=("left", "down", "right", "up"),
    ),
    "CliffWalking": Toy(
        instructions="Walk from x to T and avoid the cliff C. Reply with only up, right, down or left.",
        actions=("up", "right", "down", "left"),
        reward_low=-5000.0,
        reward_high=-13.0,
        threshold=-49.0,
    ),
    "Taxi": Toy(
        instructions="Drive the taxi [ ] to the passenger (), pick up, drive to {}, drop off. "
        "Reply with only south, north, east, west, pickup or dropoff.",
        actions=("south", "north", "east", "west", "pickup", "dropoff"),
        reward_low=-500.0,
        reward_high=20.0,
        threshold=-29.0,
    ),
    "Blackjack": Toy(
        instructions="Blackjack. Reply with only stick or hit.",
        actions=("stick", "hit"),
        parts=("your sum", "dealer shows", "usable ace"),
        reward_low=-1.0,
    ),
}
"""By id without its version. Limits of the scale are those of 50 turns."""


def find(id_: str) -> tuple[Callable[..., Any], Callable[..., TextEnv], dict[str, Any]]:
    """The constructor of a registered id, how to make it as text, and its registered defaults. `MODULE:` before the id is imported first.

    Raises `UnknownError` for an id that is not registered, with Gymnasium's own hint.
    """
    module, _, rest = id_.rpartition(":")
    try:
        if module:
            import_module(module)
        spec = gymnasium.spec(rest)
    except ImportError as error:
        raise UnknownError(f"gym:{id_}: module {module} cannot be imported: {error}") from error
    except gymnasium.error.Error as error:
        raise UnknownError(f"gym:{id_}: {error}") from error
    if spec.entry_point is None:
        raise InputError(f"gym:{id_} cannot be made: it is registered without an entry point")
    creator = spec.entry_point if callable(spec.entry_point) else gymnasium.envs.registration.load_env_creator(spec.entry_point)
    modes = cast("dict[str, Any]", getattr(creator, "metadata", {})).get("render_modes", ())
    rendered: dict[str, Any] = {"render_mode": "ansi"} if "ansi" in modes else {}

    def make(**options: Any) -> TextEnv:
        try:
            return as_text(gymnasium.make(spec, disable_env_checker=True, **rendered, **options))
        except gymnasium.error.Error as error:
            raise InputError(f"gym:{id_} cannot be made: {error}") from error

    return creator, make, dict(spec.kwargs)


def as_text(env: gymnasium.Env[Any, Any]) -> TextEnv:
    """The environment itself where it speaks text, else its default rendering. Raises `InputError` where its actions cannot be written."""
    if not isinstance(env, gymnasium.Env):
        raise InputError(f"{env!r} is no environment: it must be a gymnasium.Env")
    if isinstance(env.observation_space, spaces.Text) and isinstance(env.action_space, spaces.Text):
        return env
    if not isinstance(env.action_space, spaces.Discrete | spaces.Text):
        raise InputError(
            f"{env} has actions of {env.action_space}, only Discrete can be put in text: write a class with str actions (py:...)"
        )
    return AsText(env)


class AsText(gymnasium.Env[str, str]):
    """An environment with discrete actions, shown and answered as text."""

    def __init__(self, inner: gymnasium.Env[Any, Any]) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self._inner = inner
        self._return = 0.0
        spec = inner.spec
        toy = TOYS.get(spec.name) if spec is not None and spec.namespace is None else None
        self._is_toy = toy is not None
        self._parts = toy.parts if toy else ()
        self._actions = self._numbered(toy.actions if toy else ())
        names = ", ".join(toy.actions if toy else self._actions)
        self.instructions = toy.instructions if toy else getattr(inner.unwrapped, "instructions", f"Reply with only one of: {names}.")
        self.reward_low, self.reward_high, self.threshold = (toy.reward_low, toy.reward_high, toy.threshold) if toy else (0.0, 1.0, 1.0)
        self.turn_limit = min(MOST_TURNS, spec.max_episode_steps or MOST_TURNS) if spec is not None else DEFAULT_TURN_LIMIT
        self.max_tokens = 8

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._return = 0.0
        observation, info = self._inner.reset(seed=seed, options=options)
        return self._shown(observation), info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        native: Any = action
        if isinstance(self._inner.action_space, spaces.Discrete):
            native = self._actions.get(plain(action))
            if native is None:
                lowest = min(0.0, self.reward_low - self._return)
                return f"not an action: {action}", lowest, True, False, {"success": False, "invalid_action": True}
        observation, reward, terminated, truncated, info = self._inner.step(native)
        self._return += float(reward)
        if self._is_toy:
            info = {**info, "success": bool(terminated) and self._return >= self.threshold}
        return self._shown(observation), float(reward), terminated, truncated, info

    def close(self) -> None:
        self._inner.close()

    def _numbered(self, names: tuple[str, ...]) -> dict[str, int]:
        """Every way to write an action, in lower case, with its number."""
        space = self._inner.action_space
        if not isinstance(space, spaces.Discrete):
            return {}
        numbers = range(int(space.start), int(space.start + space.n))
        return {str(number): number for number in numbers} | dict(zip(names, numbers, strict=False))

    def _shown(self, observation: Any) -> str:
        rendered = self._inner.render() if self._inner.render_mode == "ansi" else None
        if isinstance(rendered, str) and rendered.strip():
            return unescaped(rendered)
        return written(observation, self._parts)


def unescaped(rendered: str) -> str:
    """A terminal rendering without escapes: what they coloured stands in brackets instead."""

    def bracketed(match: re.Match[str]) -> str:
        codes = match[1].split(";")
        left, right = "[]" if any(code[0] == "4" and len(code) == 2 for code in codes) else "()" if "1" in codes else "{}"
        return left + match[2] + right

    while COLOURED.search(rendered):
        rendered = COLOURED.sub(bracketed, rendered)
    return ESCAPE.sub("", rendered).strip("\n").rstrip()


def written(observation: Any, names: tuple[str, ...] = ()) -> str:
    """An observation of any space in words."""
    match observation:
        case str():
            return observation
        case dict():
            return "\n".join(f"{key}: {_value(value)}" for key, value in observation.items())
        case tuple() if len(names) == len(observation):
            return "\n".join(f"{name}: {_value(value)}" for name, value in zip(names, observation, strict=True))
        case tuple():
            return ", ".join(_value(value) for value in observation)
        case bool() | int() | np.integer():
            return f"state {int(observation)}"
        case _:
            return _value(observation)


def _value(value: Any) -> str:
    return str(value.tolist() if isinstance(value, np.ndarray | np.generic) else value)
