"""TextArena games, made safe to learn from: those for one player here, those for several in `seats.py`.

What TextArena 0.7.4 does (each point was seen by running it), and how it is handled here:
- A second episode on one object continues the first: every episode makes its own game.
- It seeds and uses the global `random`: every call runs on the game's own generator, and the caller's is restored.
- A step after the end is executed and can change the result: it is refused.
- An observation can be read only once, and TextArena's wrappers repeat the whole history each turn: the raw messages are read, and a turn
  shows only new ones, because the conversation has the others. So the forms `-train` and `-raw` play like the game itself.
- Four games exchange the reason and the reward of an invalid move: they are exchanged back. Any other text as a reward is an error.
- Rewards are partial credit that needs no playing (GuessTheNumber pays .75 for always the same guess): `success` is whether the reward
  reached 1.
- The score of Bandit is upside down: always taking the best arm scores 0, always the worst .39. With its oracle the check finds that.
- A second invalid move in a row ends the game; each shows as `info["invalid_action"]`, with the game's reason.
- Replies in the wrong brackets are invalid moves: `5`, `5.`, `**5**` and `[ 5 ]` all reach the game as `[5]`.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from importlib import import_module

from perdure.envs.environment import Info, ResetResult, StepResult
from perdure.envs.sources.factory import EnvironmentFactory, registered_default, signature_options
from perdure.envs.sources.packages import does_not_work, imported, unknown
from perdure.envs.sources.textarena.fixed_game import GAME, FixedGame
from perdure.envs.sources.textarena.seats import several_players
from perdure.envs.sources.textarena.solvers import solver


def find(id_: str) -> EnvironmentFactory:
    """The game of a registered id.

    Raises `UnknownError` if TextArena does not have it, and `InputError` with the reason if it cannot be played here.
    """
    registered = imported("textarena").envs.registration.ENV_REGISTRY
    if id_ not in registered:
        raise unknown("TextArena game", id_, registered)
    module, _, attribute = registered[id_].entry_point.partition(":")
    try:
        game = getattr(import_module(module), attribute)
        source = inspect.getsource(import_module(module))
    except (ImportError, AttributeError, SyntaxError, OSError) as error:
        raise does_not_work(f"textarena:{id_}", error) from error
    declared, open_ended = signature_options(game)
    defaults = {name: registered_default(value) for name, value in registered[id_].kwargs.items()}
    if "SinglePlayerState" not in source:  # some games for several players start with one player too
        factory = several_players(id_, source, defaults)
    else:
        kind = Solved if solver(id_) else OnePlayer
        factory = EnvironmentFactory(make=lambda **options: kind(id_, options), options=defaults)
    return replace(factory, options={**declared, **factory.options}, open_ended=open_ended)


class OnePlayer(FixedGame):
    """A game for one player as a text environment."""

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> ResetResult:
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**32)) if seed is None else seed
        self._generators.seed(number)
        with self._generators:
            self._begin(number, 1)
            return self._news(), {}

    def step(self, action: str) -> StepResult:
        if self._over:
            raise RuntimeError("this episode has ended: call reset() before the next step")
        with self._generators:
            invalid = self._move(action)
            if not self._over:
                return self._news(), 0.0, False, False, {"success": False, "invalid_action": invalid}
            (reward,) = self._rewards(1)
            info = {"success": reward >= 1, "reason": self._game.state.game_info[0].get("reason"), "invalid_action": invalid}
            return self._news(), reward, True, False, info

    def _news(self) -> str:
        """The messages of the game since the last turn, without the player's own moves: the conversation has them."""
        _, messages = self._game.get_observation()
        return "\n\n".join(text.strip() for sender, text, _ in messages if sender == GAME)


class Solved(OnePlayer):
    """A game for which the right action is known (`solvers.py`)."""

    def oracle(self) -> str:
        solve = solver(self._id)
        assert solve is not None, "only games with a solver are made so"
        return solve(self._game)
