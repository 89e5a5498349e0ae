"""TextArena games for several players, of whom one is the policy.

A script may play the other seats (`opponent=random`, `opponent=py:package.module:function`): the adapter then plays them until it is the
policy's turn, and the game looks like one for one player. Or a version plays them (`opponent=serving`, `opponent=v3`): the adapter then
states in `info["seat"]` whose turn it is, as docs/sources.md describes it for any game with several seats.

In addition to the faults of games for one player: each seat can read an observation only once, a game that a script loses by invalid moves
is an error of the environment and not of the policy, and returns lie between -1 (lost) and 1 (won).
"""

from __future__ import annotations

import random
import re
from importlib import import_module
from typing import Any, cast

from perdure.envs.environment import Info, ResetResult, StepResult, TextEnv
from perdure.envs.environment_names import Options
from perdure.envs.sources.factory import EnvironmentFactory
from perdure.envs.sources.packages import does_not_work
from perdure.envs.sources.random_state import Generators
from perdure.envs.sources.textarena.fixed_game import FixedGame, make_game
from perdure.envs.sources.textarena.scripted_opponents import Script, random_mover
from perdure.memory.errors import InputError, RuntimeFailure

MOST_PLAYERS = 10


def several_players(id_: str, source: str, options: Options) -> EnvironmentFactory:
    """A game for several players. `source` is the game's code. Raises `InputError` if it does not start."""
    fewest = 2 if "TwoPlayerState" in source else _fewest_players(id_)
    fit = {fewest}

    def make(*, opponent: str = "random", seat: str = "any", players: int = fewest, **options: Any) -> TextEnv:
        if players not in fit and (not 2 <= players <= MOST_PLAYERS or _refuses(id_, options, players)):
            raise InputError(f"textarena:{id_} does not start with {players} players")
        fit.add(players)
        return SeveralPlayers(id_, options, opponent=opponent, seat=seat, players=players)

    return EnvironmentFactory(make=make, options={**options, "opponent": "random", "seat": "any", "players": fewest})


class SeveralPlayers(FixedGame):
    """One game in which the policy has one seat. In `info`, seat 0 is always the policy's; the others follow in the order of play."""

    reward_low = -1.0

    def __init__(self, id_: str, options: Options, *, opponent: str, seat: str, players: int) -> None:
        super().__init__(id_, options)
        if seat != "any" and not (seat.isdecimal() and int(seat) < players):
            raise InputError(f"textarena:{id_}: seat={seat} is neither any nor one of 0 to {players - 1}")
        self.opponent = opponent
        self._script = _script(id_, opponent)
        self._seat, self._players = seat, players
        self._judged = 0
        self._read: list[list[str]] = []
        """What each player has read, for scripts."""
        self._random = random.Random()

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> ResetResult:
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**32)) if seed is None else seed
        self._random = random.Random(f"seats of {number}")
        self._judged = self._random.randrange(self._players) if self._seat == "any" else int(self._seat)
        self._read = [[] for _ in range(self._players)]
        self._generators.seed(number)
        with self._generators:
            self._begin(number, self._players)
            self._play_scripts()
            if self._over:
                raise RuntimeFailure(f"textarena:{self._id} with players={self._players} ended before the policy's first turn")
            return self._news(self._turn), {"seat": self._as_seat(self._turn)}

    def step(self, action: str) -> StepResult:
        if self._over:
            raise RuntimeError("this episode has ended: call reset() before the next step")
        with self._generators:
            info: Info = {"success": False, "invalid_action": self._move(action)}
            self._play_scripts()
            if not self._over:
                return self._news(self._turn), 0.0, False, False, {**info, "seat": self._as_seat(self._turn)}
            rewards = self._rewards(self._players)
            in_seats = rewards[self._judged :] + rewards[: self._judged]
            reason = self._game.state.game_info[self._judged].get("reason")
            info |= {"success": in_seats[0] >= 1, "rewards": in_seats, "reason": reason}
            return self._news(self._judged), in_seats[0], True, False, info

    @property
    def _turn(self) -> int:
        """The player whose turn it is, in the game's own numbering."""
        return int(self._game.state.current_player_id)

    def _as_seat(self, player: int) -> int:
        return (player - self._judged) % self._players

    def _play_scripts(self) -> None:
        """If a script plays the other seats, play them until it is the policy's turn."""
        while self._script is not None and not self._over and (player := self._turn) != self._judged:
            self._read[player].append(self._news(player))
            reason = self._move(self._script("\n\n".join(self._read[player]), self._random))
            if reason is not None and self._game.state.game_info[player]["invalid_move"]:
                raise RuntimeFailure(f"opponent={self.opponent} made two invalid moves in a row, so choose another opponent: {reason}")

    def _news(self, player: int) -> str:
        """The messages of the game and of others to this player since its last turn, without its own moves."""
        if player == self._turn:
            _, messages = self._game.get_observation()
        else:  # at the end
            state = self._game.state
            messages, state.observations[player] = state.observations[player], []
        return "\n\n".join(
            text.strip() if sender < 0 else f"Player {sender}: {' '.join(text.split())}" for sender, text, _ in messages if sender != player
        )


def _script(id_: str, opponent: str) -> Script | None:
    """The script that plays the other seats inside the game; None if versions play them."""
    if opponent == "random":
        return random_mover(id_)
    if opponent == "serving" or re.fullmatch(r"v\d+", opponent):
        return None
    source, _, rest = opponent.partition(":")
    module, _, attribute = rest.partition(":")
    if source != "py" or not attribute:
        raise InputError(f"textarena:{id_}: opponent={opponent} is not random, serving, a version's name or py:package.module:function")
    try:
        return cast("Script", getattr(import_module(module), attribute))
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"textarena:{id_}: opponent={opponent} cannot be imported: {error}") from error


def _fewest_players(id_: str) -> int:
    """The smallest number of players from two on with which the game starts. Raises `InputError` with the reason if there is none."""
    refused: Exception | None = None
    for players in range(2, MOST_PLAYERS + 1):
        refused = _refuses(id_, {}, players)
        if refused is None:
            return players
    assert refused is not None, "there is a number of players to try"
    raise does_not_work(f"textarena:{id_}", refused)


def _refuses(id_: str, options: Options, players: int) -> Exception | None:
    """The error if a game is started with this many players; None if it starts."""
    generators = Generators()
    try:
        with generators:
            make_game(id_, options).reset(num_players=players, seed=0)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - a game refuses a number of players in its own way
        return error
    return None
