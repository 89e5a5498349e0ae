"""Environments in which what a version can do is decided by a policy that follows a script, and not by the task."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import gymnasium

from perdure import AnyText

Step = tuple[str, float, bool, bool, dict[str, Any]]


class Says(gymnasium.Env[str, str]):
    """Won by the answer 'yes'. What is asked is `name`."""

    turn_limit = 1
    max_tokens = 4

    def __init__(self, name: str = "nothing") -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self.asked = name

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return self.asked, {}

    def step(self, action: str) -> Step:
        won = action == "yes"
        return "", float(won), True, False, {"success": won}


class Stumbles(Says):
    """It fails in the first `times` episodes of every seed."""

    played: ClassVar[Counter[int]] = Counter()

    def __init__(self, name: str = "nothing", times: int = 1) -> None:
        super().__init__(name)
        self.times = times

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        assert seed is not None
        self.played[seed] += 1
        self.fails = self.played[seed] <= self.times
        return super().reset(seed=seed)

    def step(self, action: str) -> Step:
        if self.fails:
            raise RuntimeError("it stumbled")
        return super().step(action)


class Asks(Says):
    """What is asked has the seed in it. It fails at every seed that `fails` divides, however often it is played; 0: at none."""

    def __init__(self, name: str = "nothing", fails: int = 0) -> None:
        super().__init__(name)
        self.fails_at = fails

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        assert seed is not None
        self.breaks = self.fails_at > 0 and seed % self.fails_at == 0
        return f"{self.asked} {seed}", {}

    def step(self, action: str) -> Step:
        if self.breaks:
            raise RuntimeError("it broke")
        return super().step(action)
