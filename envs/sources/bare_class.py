"""A class with only `reset` and `step`, as a Gymnasium environment: no base class, and no spaces if both sides are text.

- `reset` gets `seed` and `options` if it takes them. It returns an observation, or (observation, info).
- `step` takes the action. It returns (observation, reward, done), (observation, reward, done, info), or Gymnasium's five values.
- `close`, spaces of Gymnasium, and the attributes of any environment (`instructions`, `oracle()`, ...) are used if they exist.
- A class whose `reset` takes no seed may draw from the global `random` and `numpy.random`. It gets its own states of them, which the seed
  decides. A generator that such a class makes for itself cannot be seeded; `env check` then finds that it is not deterministic.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Space

from perdure.envs.environment import AnyText, Info
from perdure.envs.sources.random_state import Generators
from perdure.memory.errors import InputError


class BareClass(gymnasium.Env[Any, Any]):
    """An object with `reset` and `step`. Raises `InputError` if it has not both."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.observation_space = _space(inner, "observation_space")
        self.action_space = _space(inner, "action_space")
        takes = _signature(inner, "reset").parameters
        takes_any = any(each.kind is each.VAR_KEYWORD for each in takes.values())
        self._reset_with = [key for key in ("seed", "options") if key in takes or (takes_any and key == "seed")]
        _check_call(inner, "reset", **dict.fromkeys(self._reset_with))
        _check_call(inner, "step", "")
        self._generators = None if "seed" in self._reset_with else Generators()

    @property
    def unwrapped(self) -> Any:
        """The object itself, with its own attributes and `oracle`."""
        return self._inner

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        super().reset(seed=seed)
        if self._generators is not None:
            self._generators.seed(int(self.np_random.integers(2**32)) if seed is None else seed)
        given = {"seed": seed, "options": options}
        with self._drawing():
            answer = self._inner.reset(**{key: given[key] for key in self._reset_with})
        if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict):
            return answer
        return answer, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Info]:
        with self._drawing():
            answer = self._inner.step(action)
        match answer:
            case (observation, reward, bool() | np.bool_() as done):
                return observation, reward, bool(done), False, {}
            case (observation, reward, bool() | np.bool_() as done, dict() as info):
                return observation, reward, bool(done), False, info
            case (observation, reward, bool() | np.bool_() as terminated, bool() | np.bool_() as truncated, dict() as info):
                return observation, reward, bool(terminated), bool(truncated), info
        kinds = f"({', '.join(type(each).__name__ for each in answer)})" if isinstance(answer, tuple) else type(answer).__name__
        if isinstance(answer, tuple) and len(answer) in (3, 4) and isinstance(answer[2], int | np.integer):
            raise TypeError(f"step returned {kinds}: done must be a bool, so write bool(done)")
        raise TypeError(
            f"step returned {kinds}: it must return (observation, reward, done), (observation, reward, done, info), "
            "or (observation, reward, terminated, truncated, info)"
        )

    def close(self) -> None:
        close = getattr(self._inner, "close", None)
        if callable(close):
            close()

    def _drawing(self) -> AbstractContextManager[None]:
        return nullcontext() if self._generators is None else self._generators


def _space(inner: Any, name: str) -> Space[Any]:
    space = getattr(inner, name, None)
    if space is None:
        return AnyText()
    if not isinstance(space, Space):
        raise InputError(f"{type(inner).__name__}.{name} is {space!r}: it must be a space of Gymnasium; leave it out if it is text")
    return space


def _signature(inner: Any, name: str) -> inspect.Signature:
    method = getattr(inner, name, None)
    if not callable(method):
        raise InputError(f"{inner!r} is not an environment: it has no method {name}()")
    return inspect.signature(method)


def _check_call(inner: Any, name: str, *args: Any, **kwargs: Any) -> None:
    signature = _signature(inner, name)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        wanted = "reset() may take seed and options" if name == "reset" else "step() takes the action"
        raise InputError(f"{type(inner).__name__}.{name}{signature} cannot be used: {error}. {wanted}, and no other arguments") from error
