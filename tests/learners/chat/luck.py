"""A game of two rounds that is won by luck: a model that never ends its thoughts learns from it too."""

from __future__ import annotations

from random import Random
from typing import Any

import gymnasium

from perdure.envs.environment import AnyText

CHANCE = Random(5)


class Luck(gymnasium.Env[str, str]):
    instructions = "Say anything."
    turn_limit = 2
    max_tokens = 6

    def __init__(self) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.rounds = 0
        return f" round {seed}\n", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.rounds += 1
        won = self.rounds == 2 and CHANCE.random() < 0.5
        return "<|im_end|> again \n", float(won), self.rounds == 2, False, {}
