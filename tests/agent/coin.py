"""An environment that a model of random weights wins about half the time: it says an even (or odd) number of characters, or not."""

from __future__ import annotations

from typing import Any

import gymnasium

from perdure import AnyText


class Coin(gymnasium.Env[str, str]):
    """Won by an answer whose length is even, or odd if `side` is 1."""

    turn_limit = 1
    max_tokens = 4

    def __init__(self, side: int = 0) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self.side = side

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return f"Say something about {seed}.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        won = len(action) % 2 == self.side
        return "", float(won), True, False, {"success": won}


class Broken(Coin):
    """It cannot begin."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        raise RuntimeError("this environment is broken")


class Walk(Coin):
    """It takes as many turns as its seed says, up to ten, for any answer."""

    turn_limit = 10

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        assert seed is not None
        self.left = 1 + seed % 10
        return super().reset(seed=seed)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return "Go on.", 0.0, self.left == 0, False, {"success": True}
