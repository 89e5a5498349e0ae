"""One game of TextArena, with the faults repaired that `solo.py` lists, for games of any number of players."""

from __future__ import annotations

import re
from ast import literal_eval
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium

from perdure.envs.answers import bare
from perdure.envs.environment import AnyText
from perdure.envs.environment_names import Options
from perdure.envs.sources.packages import does_not_work, imported
from perdure.envs.sources.random_state import Generators
from perdure.memory.errors import RuntimeFailure

GAME = -1
"""The sender of the game's own messages; some games have a sender that is not a number."""


class FixedGame(gymnasium.Env[str, str]):
    """A fresh game for every episode, with random generators of its own. Its two kinds are `OnePlayer` and `SeveralPlayers`.

    Raises `InputError` if the game cannot be made with these options; this is tried once for all episodes.
    """

    observation_space = action_space = AnyText()
    instructions = "Reply with only your move in square brackets."
    turn_limit = 30
    max_tokens = 16

    def __init__(self, id_: str, options: Options) -> None:
        self._id, self._options = id_, options
        self._generators = Generators(numpy=draws_with_numpy(id_))
        _try_out(id_, repr(options))
        self._game: Any = None
        self._over = True

    def _begin(self, seed: int, players: int) -> None:
        """Begin a game of this seed. The caller is inside `self._generators`."""
        self._game = make_game(self._id, self._options)
        self._game.reset(num_players=players, seed=seed)
        if players == 1:
            _repair_invalid_moves(self._game.state)
        self._over = False

    def _move(self, action: str) -> str | None:
        """Make a move for the player whose turn it is. Returns why it was invalid, or None if the game accepted it."""
        state = self._game.state
        player, errors, logged = state.current_player_id, state.error_count, len(state.logs)
        out = state.game_info[player]["invalid_move"]
        self._over, _ = self._game.step(move(action))
        player_info = state.game_info[player]
        if player_info["invalid_move"] and not out:  # the second in a row
            return str(player_info.get("reason") or "a second invalid move in a row")
        if state.error_count > errors:
            log = "\n".join(str(text) for _, text in state.logs[logged:])
            reason = re.search(r"Reason: (.*?)(?: Please resubmit|$)", log, re.DOTALL)
            return reason[1] if reason else "an invalid move"
        return None

    def _rewards(self, players: int) -> list[float]:
        """The reward of each player; only at the end."""
        rewards, _ = self._game.close()
        checked: list[float] = []
        for player in range(players):
            reward = (rewards or {}).get(player)
            if isinstance(reward, bool) or not isinstance(reward, int | float):
                raise RuntimeFailure(f"textarena:{self._id} gave {reward!r} as its reward")
            checked.append(float(reward))
        return checked


def _repair_invalid_moves(state: Any) -> None:
    """Four games report an invalid move with reason and reward exchanged: exchange them back."""
    set_invalid_move = state.set_invalid_move

    def repaired(reason: Any, reward: Any = -1.0) -> None:
        set_invalid_move(*((reward, reason) if isinstance(reward, str) else (reason, reward)))

    state.set_invalid_move = repaired


def make_game(id_: str, options: Options) -> Any:
    """A game without its wrappers, which repeat and lose messages. Raises `InputError` if it does not work here."""
    textarena = imported("textarena")
    try:
        game = textarena.make(id_, **options)
    except (LookupError, ImportError, OSError, SyntaxError, ValueError) as error:
        raise does_not_work(f"textarena:{id_}", error) from error
    while isinstance(game, textarena.Wrapper):
        game = game.env
    return game


@lru_cache
def draws_with_numpy(id_: str) -> bool:
    """Whether a game draws from NumPy's global generator too; three of TextArena's do."""
    module, _, _ = imported("textarena").envs.registration.ENV_REGISTRY[id_].entry_point.partition(":")
    folder = Path(str(import_module(module).__file__)).parent
    return any("np.random" in file.read_text(encoding="utf-8") for file in folder.glob("*.py"))


@lru_cache
def _try_out(id_: str, options: str) -> None:
    """Make a game with these options, which are Python source. Raises as `make_game` does."""
    with Generators(numpy=draws_with_numpy(id_)):
        make_game(id_, literal_eval(options))


def move(action: str) -> str:
    """A reply as TextArena reads it: in square brackets, unless it has several parts in brackets already."""
    inner = bare(action)
    return action if "[" in inner or "]" in inner else f"[{inner}]"
