"""An environment that waits: every step takes its time and no processor, as a browser, a compiler or a person would. Nothing is judged."""

from __future__ import annotations

import time
from typing import Any

import gymnasium

from perdure.envs.environment import AnyText

NAME = "py:perdure.agent.bench.cluster.waiting_game:WaitingGame"
STEP_MS = 50
"""What a step takes."""
TURNS = 5
WORDS = ("list", "number", "word", "is", "not", "like", "others", "so", "name", "it", "again", "with", "reasons")


class WaitingGame(gymnasium.Env[str, str]):
    """Takes any answer for `turns` turns, each after `wait_ms`."""

    max_tokens = 40

    def __init__(self, turns: int = TURNS, wait_ms: int = STEP_MS, words: int = 60) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self.turn_limit = turns
        self._turns = turns
        self._wait_s = wait_ms / 1000
        self._words = words
        self._left = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._left = self._turns
        return self._text(), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        time.sleep(self._wait_s)
        self._left -= 1
        return self._text(), 0.0, self._left == 0, False, {"success": True}

    def _text(self) -> str:
        return " ".join(WORDS[int(n)] for n in self.np_random.integers(len(WORDS), size=self._words))
