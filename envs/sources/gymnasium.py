"""Gymnasium environments as text.

An environment whose observations and actions are text is not changed. Any other is shown as follows; for another form, write a class with
`str` on both sides and name it `py:package.module:Class`:

- Observation: the environment's own `ansi` rendering if it has one, without escapes (`envs/sources/ansi.py`); otherwise the observation
  written out according to its space (`envs/sources/spaces.py`).
- Action: read according to its space (`envs/sources/actions.py`), with the names of `TOYS` or the attribute `action_names`.
- An answer that is not an action never reaches the environment. It ends the episode: `success` is False, and the return is the lowest
  (`reward_low`), so that not playing never pays. With `invalid_limit=N` only the N-th in a row ends it; each one before has the reward
  `invalid_penalty`, and the observation says what was wrong. `info["invalid_action"]` has the reason in either case.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property, partial
from importlib import import_module
from numbers import Real
from typing import Any, cast

import gymnasium
from gymnasium import spaces

from perdure.envs.environment import (
    DEFAULT_MAX_TOKENS,
    DEFAULT_STEP_TIMEOUT_S,
    DEFAULT_TURN_LIMIT,
    OBSERVATION,
    AnyText,
    Info,
    ResetResult,
    StepResult,
    TextEnv,
)
from perdure.envs.environment_names import Options
from perdure.envs.source_code import code_of
from perdure.envs.sources.actions import NoAnswer, answer, check_names, how_to_answer, parse
from perdure.envs.sources.ansi import unescaped
from perdure.envs.sources.bare_class import BareClass
from perdure.envs.sources.factory import EnvironmentFactory, registered_default, signature_options
from perdure.envs.sources.spaces import count_numbers, refuse, written
from perdure.envs.sources.transition_tables import best_actions
from perdure.memory.errors import InputError, UnknownError

MOST_TURNS = 50
OPTIONS: Options = {"invalid_limit": 1, "invalid_penalty": 0.0}
"""Options of every environment whose answers are read here."""
SCALE = ("reward_low",)
"""The common options that are needed here as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """What Gymnasium does not state about its text environments."""

    instructions: str
    actions: tuple[str, ...]
    parts: tuple[str, ...] = ()
    """Names of the parts of a tuple observation."""
    reward_low: float = 0.0
    reward_high: float = 1.0
    threshold: float = 1.0
    """It succeeds if it ends by itself with at least this return; stated in `info["success"]`, so that scores are 0 or 1."""


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
"""By id without its version. The limits of the scale hold for 50 turns."""


def find(id_: str) -> EnvironmentFactory:
    """The environment of a registered id, as text. `MODULE:` before the id is imported first.

    Raises `UnknownError` with Gymnasium's own hint if the id is not registered.
    """
    module, _, rest = id_.rpartition(":")
    try:
        if module:
            import_module(module)
        spec = gymnasium.spec(rest)
    except ImportError as error:
        raise UnknownError(f"gym:{id_}: module {module} cannot be imported: {error}") from error
    except gymnasium.error.Error as error:
        hint = "" if module else f" If a module of yours registers it, name the module first: gym:MODULE:{id_}"
        raise UnknownError(f"gym:{id_}: {error}{hint}") from error
    if spec.entry_point is None:
        raise InputError(f"gym:{id_} cannot be made: it is registered without an entry point")
    creator = spec.entry_point if callable(spec.entry_point) else gymnasium.envs.registration.load_env_creator(spec.entry_point)
    registered_make = partial(gymnasium.make, spec, disable_env_checker=True)
    if "ansi" in getattr(creator, "metadata", {}).get("render_modes", ()):
        registered_make = partial(registered_make, render_mode="ansi")

    def make(**options: Any) -> gymnasium.Env[Any, Any]:
        try:
            return registered_make(**options)
        except gymnasium.error.Error as error:
            raise InputError(f"gym:{id_} cannot be made: {error}") from error

    options, open_ended = signature_options(creator)
    defaults = {name: registered_default(value) for name, value in spec.kwargs.items()}
    code = code_of(*([module] if module else []), str(getattr(creator, "__module__", "gymnasium")))
    return replace(text_factory(make, {**options, **defaults}, open_ended), code=code)


def text_factory(make: Callable[..., Any], options: Options, open_ended: bool) -> EnvironmentFactory:
    """What `make` makes, as text; its options and `OPTIONS`."""

    def make_text(**given: Any) -> TextEnv:
        reading = {key: given.pop(key) for key in (*OPTIONS, *SCALE) if key in given and key not in options}
        return as_text(make(**given), **reading)

    return EnvironmentFactory(make=make_text, options={**OPTIONS, **options}, open_ended=open_ended, shared=SCALE)


def as_text(made: Any, *, reward_low: float | None = None, invalid_limit: int = 1, invalid_penalty: float = 0.0) -> TextEnv:
    """The environment itself if both its sides are text, otherwise its default rendering.

    Raises `InputError` if it is not an environment, cannot be put in text, or does not take these options.
    """
    _refuse_others(made)
    env = made if isinstance(made, gymnasium.Env) else BareClass(made)
    if isinstance(env.action_space, spaces.Text) and (invalid_limit, invalid_penalty) != (1, 0.0):
        raise InputError(f"{env} takes any text, and decides itself what is not an action: leave invalid_limit and invalid_penalty out")
    if isinstance(env.observation_space, spaces.Text) and isinstance(env.action_space, spaces.Text):
        return env
    if invalid_limit < 1 or not -math.inf < invalid_penalty <= 0:
        raise InputError(f"invalid_limit={invalid_limit} must be at least 1, and invalid_penalty={invalid_penalty:g} a number up to 0")
    return AsText(env, reward_low, invalid_limit, invalid_penalty)


def _refuse_others(made: Any) -> None:
    """Raises `InputError` if it is many environments at once, or one that must be awaited."""
    many = getattr(made, "num_envs", None)
    if isinstance(many, int) and not isinstance(made, gymnasium.Env):
        raise InputError(f"{type(made).__name__} is {many} environments at once: make one; play.width decides how many are played")
    for name in ("reset", "step", "oracle", "close"):
        if inspect.iscoroutinefunction(getattr(made, name, None)):
            raise InputError(f"{type(made).__name__}.{name} is async: write a plain method, which may call asyncio.run()")


class AsText(gymnasium.Env[str, str]):
    """An environment with other spaces than text, shown and answered as text."""

    observation_space = action_space = AnyText()

    def __init__(self, inner: gymnasium.Env[Any, Any], reward_low: float | None, invalid_limit: int, invalid_penalty: float) -> None:
        self._inner = inner
        own = inner.unwrapped
        spec = getattr(own, "spec", None)  # a wrapper would copy it deeply, and a bare class has none
        toy = TOYS.get(spec.name) if spec is not None and spec.namespace is None else None
        self._toy = toy
        self._names = toy.actions if toy else getattr(own, "action_names", None) or _enumerated(own, inner.action_space)
        refuse(inner.action_space, inner, "actions")
        if toy is None:
            check_names(inner.action_space, self._names)
        self._is_rendered = inner.render_mode == "ansi" and not isinstance(inner.observation_space, spaces.Text)
        if not self._is_rendered:
            refuse(inner.observation_space, inner, "observations")
        turn_limit = min(MOST_TURNS, spec.max_episode_steps or MOST_TURNS) if spec is not None else DEFAULT_TURN_LIMIT
        self.instructions: str = getattr(own, "instructions", toy.instructions if toy else _instructions(inner.action_space, self._names))
        self.template: str = getattr(own, "template", OBSERVATION)
        self.shots: int = getattr(own, "shots", 0)
        self.examples: str = getattr(own, "examples", "")
        self.turn_limit: int = getattr(own, "turn_limit", turn_limit)
        numbers = count_numbers(inner.action_space)
        self.max_tokens: int = getattr(own, "max_tokens", 8 if numbers == 1 else max(DEFAULT_MAX_TOKENS, 8 * numbers))
        self.threshold: float = getattr(own, "threshold", toy.threshold if toy else 1.0)
        self.reward_low: float = getattr(own, "reward_low", toy.reward_low if toy else 0.0)
        self.reward_high: float = getattr(own, "reward_high", toy.reward_high if toy else 1.0)
        self.step_timeout_s: float = getattr(own, "step_timeout_s", DEFAULT_STEP_TIMEOUT_S)
        self._lowest = self.reward_low if reward_low is None else reward_low
        self._limit, self._penalty = invalid_limit, invalid_penalty
        self._invalid, self._return = 0, 0.0
        """Answers in a row that were not actions; the return so far."""
        self._success: Any = None
        """As the environment stated it last."""

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> ResetResult:
        self._invalid, self._return, self._success = 0, 0.0, None
        observation, info = self._inner.reset(seed=seed, options=options)
        self._np_random = self._inner.np_random
        return self._shown(observation), info

    def step(self, action: str) -> tuple[str, Any, bool, bool, Info]:
        try:
            native = parse(self._inner.action_space, action, self._names)
        except NoAnswer as error:
            return self._refused(str(error))
        observation, reward, terminated, truncated, info = self._inner.step(native)
        self._invalid = 0
        self._return += float(reward) if isinstance(reward, Real) else 0.0  # the guard reports any other
        if self._toy is not None:
            info = {**info, "success": bool(terminated) and self._return >= self._toy.threshold}
        self._success = info.get("success")
        return self._shown(observation), reward, terminated, truncated, info

    @cached_property
    def oracle(self) -> Callable[[], str] | None:
        """The environment's own, or one that looks up the right action in the table of transitions that some toys have."""
        own = self._inner.unwrapped
        native = getattr(own, "oracle", None)
        if native is None and self._toy is not None and isinstance(table := getattr(own, "P", None), dict):
            best = best_actions(table)
            native = None if best is None else lambda: best[int(cast("Any", own).s)]
        if native is None:
            return None

        def in_words() -> str:
            right = native()
            return right if isinstance(right, str) else answer(self._inner.action_space, right, self._names)

        return in_words

    def close(self) -> None:
        self._inner.close()

    def _refused(self, reason: str) -> StepResult:
        self._invalid += 1
        ends = self._invalid >= self._limit
        reward = min(0.0, self._lowest - self._return) if ends else self._penalty
        self._return += reward
        info = {"success": False if ends else self._success, "invalid_action": reason}
        return f"not an action: {reason}", reward, ends, False, info

    def _shown(self, observation: Any) -> str:
        if self._is_rendered:
            rendered = self._inner.render()
            if isinstance(rendered, str) and rendered.strip():
                return unescaped(rendered)
        return written(self._inner.observation_space, observation, self._toy.parts if self._toy else ())


def _enumerated(own: object, space: spaces.Space[Any]) -> tuple[str, ...]:
    """The names of actions that the environment has as an enumeration `actions` of all numbers of its space, as minigrid does; or none."""
    actions = getattr(own, "actions", None)
    if not (isinstance(space, spaces.Discrete) and isinstance(actions, type) and issubclass(actions, IntEnum)):
        return ()
    names = {int(action): action.name for action in actions}
    return tuple(names[n] for n in sorted(names)) if sorted(names) == list(range(int(space.start), int(space.start + space.n))) else ()


def _instructions(space: spaces.Space[Any], names: Any) -> str:
    return "" if isinstance(space, spaces.Text) else how_to_answer(space, names)
