"""What is played in these tests: a game whose texts would take over a page that trusts them, slow enough to watch."""

from __future__ import annotations

import time
from typing import Any

import gymnasium

from perdure.envs.environment import AnyText

HOSTILE = "<script>window.owned = 1</script><img src='http://evil.example/x' onerror='window.owned = 2'>"
SLOW = "py:tests.browser.games:Slow"

Step = tuple[str, float, bool, bool, dict[str, Any]]


class Slow(gymnasium.Env[str, str]):
    """Five turns of a fifth of a second, each of which says something hostile."""

    turn_limit = 5
    max_tokens = 6

    def __init__(self) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self.round = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.round = 0
        return f"Round 0 {HOSTILE}\x1b[31m\u202e", {}

    def step(self, action: str) -> Step:
        time.sleep(0.2)
        self.round += 1
        return f"Round {self.round} {HOSTILE}", 0.2, self.round == 5, False, {"success": True}
