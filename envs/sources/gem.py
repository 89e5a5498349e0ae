"""Games of GEM as text environments.

What gem-llm 0.1.0 does (each point was seen by running it), and how it is handled here:
- Its `Env` is not a `gymnasium.Env`: it has no spaces, and `reset` takes no options.
- It seeds and uses the global generators: every call runs on the game's own states, and the caller's are restored.
- Half of an observation is in `info["suffix"]` (the board, what to do next): it is appended.
- The answer is the content of `\\boxed{}`; a reply without it ends the episode with -0.1. Here a bare reply is put into the box, and
  `info["invalid_action"]` has a reply that the game cannot read.
- Rewards are partial credit too (GuessTheNumber pays 1 minus the distance at the end): `success` is whether the reward reached 1.
- Only its games are offered. `rg:` draws from 500 questions of Reasoning Gym, the same for every split; `math:`, `code:`, `qa:`,
  `logic:` and `eval:` draw from one data set of a hub each, which must be downloaded, again the same for every split.
- Importing it sets up the logging of the whole process: this is prevented.
"""

from __future__ import annotations

import inspect
import logging
from ast import literal_eval
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import gymnasium

from perdure.envs.answers import bare
from perdure.envs.environment import AnyText, Info, ResetResult, StepResult
from perdure.envs.environment_names import Options
from perdure.envs.sources.factory import EnvironmentFactory, registered_default
from perdure.envs.sources.packages import does_not_work, imported, unknown
from perdure.envs.sources.random_state import Generators
from perdure.memory.errors import InputError

GAMES = "game:"
MOST_TURNS = 100
"""For a game that draws its own limit. Every game ends by itself."""


def find(id_: str) -> EnvironmentFactory:
    """The game of a registered id.

    Raises `UnknownError` for an id that GEM does not have, `InputError` for one that is not offered or does not work, with the reason.
    """
    registered = _library().envs.registration.ENV_REGISTRY
    if id_ not in registered:
        raise unknown("environment of GEM", id_, registered)
    if not id_.startswith(GAMES):
        instead = f"use reasoning_gym:{id_.removeprefix('rg:')}" if id_.startswith("rg:") else "write a class around your copy of its data"
        raise InputError(f"gem:{id_} is not offered, because all splits would draw from the same questions: {instead}")
    module, _, attribute = registered[id_].entry_point.partition(":")
    try:
        parameters = inspect.signature(getattr(import_module(module), attribute)).parameters.values()
    except (ImportError, AttributeError, LookupError) as error:
        raise does_not_work(f"gem:{id_}", error) from error
    declared = {p.name: registered_default(p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    registered_defaults = {name: registered_default(value) for name, value in registered[id_].kwargs.items()}
    options: Options = {**declared, **registered_defaults}
    return EnvironmentFactory(make=lambda **given: GemGame(id_, given, options), options=options)


class GemGame(gymnasium.Env[str, str]):
    """One game of GEM as a text environment."""

    observation_space = action_space = AnyText()
    instructions = "Reply with only your move in \\boxed{}."
    max_tokens = 24
    reward_low = -0.1

    def __init__(self, id_: str, given: Options, defaults: Options) -> None:
        self._id, self._options = id_, given
        self._game: Any = None
        limit = {**defaults, **given}.get("max_turns")
        self.turn_limit = limit if isinstance(limit, int) else MOST_TURNS
        self._generators = Generators()
        self._over = True
        _try_out(id_, repr(given))

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> ResetResult:
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**32)) if seed is None else seed
        self._generators.seed(number)
        with self._generators:
            self._game = _library().make(self._id, **self._options)
            observation, info = self._game.reset(seed=number)
        self._over = False
        return _shown(observation, info), {}

    def step(self, action: str) -> StepResult:
        if self._over:
            raise RuntimeError("this episode has ended: call reset() before the next step")
        with self._generators:
            observation, reward, terminated, truncated, about = self._game.step(boxed(action))
        self._over = terminated or truncated
        rewards = _library().utils.constants.LanguageGameReward
        info: Info = {"success": self._over and reward >= rewards.success_reward}
        if reward == rewards.format_error_reward:
            info["invalid_action"] = observation
        return observation if self._over else _shown(observation, about), float(reward), bool(terminated), bool(truncated), info


def boxed(action: str) -> str:
    """A reply as GEM reads it: in `\\boxed{}`, unless it has a box of its own."""
    return action if "\\boxed" in action else f"\\boxed{{{bare(action)}}}"


def _shown(observation: str, info: Info) -> str:
    return f"{observation.rstrip()}\n{info.get('suffix', '')}".strip()


@cache
def _try_out(id_: str, options: str) -> None:
    """Raises `InputError` if the game cannot be made: missing word lists, options with which it cannot be played."""
    try:
        with Generators():
            _library().make(id_, **literal_eval(options))
    except Exception as error:
        raise does_not_work(f"gem:{id_}", error) from error


@cache
def _library() -> ModuleType:
    root = logging.getLogger()
    placeholder = logging.NullHandler()
    root.addHandler(placeholder)  # if there is any handler, `logging.basicConfig` does nothing
    try:
        for module in ("gem.envs", "gem.utils.constants"):
            imported("gem", module)
        return imported("gem")
    finally:
        root.removeHandler(placeholder)
