"""TextArena games for one player, made safe to learn from.

What TextArena 0.7.4 does, each seen by running it, and what is done about it here:
- A second episode on one object carries the first: every episode makes its own game.
- It seeds and uses the global `random`: every call runs on the game's own generator, and the caller's is put back.
- A step after the end is executed and can turn the outcome: it is refused.
- An observation can be had only once, and TextArena's wrappers repeat the whole history each turn: the raw messages are read, and a turn
  shows only what is new, because the conversation holds the rest. So `-train` and `-raw` forms play like the game they are a form of.
- Some games give text as their reward: that is an error of the environment, not a 0.
- Rewards are partial credit that can be had without playing (GuessTheNumber pays .75 for the same guess always): `success` says whether
  the reward reached 1.
- Replies in the wrong brackets are invalid moves: `5`, `5.`, `**5**` and `[ 5 ]` all reach the game as `[5]`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import gymnasium

from perdure.envs.answers import bare
from perdure.envs.environment import AnyText, TextEnv
from perdure.envs.generators import Generators
from perdure.memory.errors import InputError, RuntimeFailure

REFUSED = {"Bandit": "its score is upside down: always taking the best arm scores 0, always the worst .39"}


def find(id_: str) -> tuple[Callable[..., Any], Callable[..., TextEnv], dict[str, Any]]:
    """The class of a registered id, how to make it as text, and its registered options.

    Raises `UnknownError` for an id that TextArena does not have, `InputError` for one that cannot be played here, with the reason.
    """
    textarena = _textarena()
    registered = textarena.envs.registration.ENV_REGISTRY
    if id_ not in registered:
        from perdure.envs.registry import unknown

        raise unknown("TextArena game", id_, registered)
    for name, reason in REFUSED.items():
        if id_.startswith(f"{name}-v"):
            raise InputError(f"textarena:{id_} is not offered: {reason}")
    module, _, attribute = registered[id_].entry_point.partition(":")
    try:
        game = getattr(import_module(module), attribute)
        source = inspect.getsource(import_module(module))
    except (ImportError, AttributeError, SyntaxError, OSError) as error:
        raise _broken(id_, error) from error
    if "SinglePlayerState" not in source:  # some games for several start with one player all the same
        raise InputError(f"textarena:{id_} is a game for several players: only those for one are offered")
    return game, lambda **options: OnePlayer(id_, options), dict(registered[id_].kwargs)


class OnePlayer(gymnasium.Env[str, str]):
    """One TextArena game as a text environment."""

    instructions = "Reply with only your move in square brackets."
    turn_limit = 30
    max_tokens = 16

    def __init__(self, id_: str, options: dict[str, Any]) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self._id, self._options = id_, options
        self._generators = Generators()
        self._over = True
        self._fresh = self._made()
        self._game = self._fresh

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**32)) if seed is None else seed
        self._game = self._fresh or self._made()
        self._fresh = None
        self._generators.seed(number)
        with self._generators.in_use():
            self._game.reset(num_players=1, seed=number)
            self._over = False
            return self._news(), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self._over:
            raise RuntimeError("this episode has ended: call reset() before the next step")
        with self._generators.in_use():
            self._over, _ = self._game.step(move(action))
            if not self._over:
                return self._news(), 0.0, False, False, {"success": False}
            rewards, about = self._game.close()
            reward = rewards[0]
            if isinstance(reward, bool) or not isinstance(reward, int | float):
                raise RuntimeFailure(f"textarena:{self._id} gave {reward!r} as its reward")
            info = {"success": reward >= 1, "reason": about[0].get("reason"), "invalid_move": about[0].get("invalid_move", False)}
            return self._news(), float(reward), True, False, info

    def _news(self) -> str:
        """What the game has said since the last turn. The player's own moves are left out: the conversation has them."""
        from textarena import GAME_ID

        _, messages = self._game.get_observation()
        return "\n\n".join(text.strip() for sender, text, _ in messages if sender == GAME_ID)

    def _made(self) -> Any:
        textarena = _textarena()
        with self._generators.in_use():
            try:
                game = textarena.make(self._id, **self._options)
            except (LookupError, ImportError, OSError, SyntaxError, ValueError) as error:
                raise _broken(self._id, error) from error
        while isinstance(game, textarena.Wrapper):
            game = game.env
        return game


def move(action: str) -> str:
    """A reply as TextArena reads it: in square brackets, where it is not already several bracketed parts."""
    inner = bare(action)
    return action if "[" in inner or "]" in inner else f"[{inner}]"


def _broken(id_: str, error: Exception) -> InputError:
    """Why a game does not work here, in one line: missing data files, a missing key, a syntax error in its wheel."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip(" *")), "")
    return InputError(f"textarena:{id_} does not work here: {type(error).__name__}: {reason}")


def _textarena() -> ModuleType:
    """TextArena, imported late (it takes seconds) and without the warnings of its own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module("textarena")
