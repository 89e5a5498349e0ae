"""Environments of the fault suite: one of several turns, in the sandbox, and one in which every candidate beats its reference."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium

from perdure.envs.environment import AnyText

Step = tuple[str, float, bool, bool, dict[str, Any]]

CHAIN = "py:tests.faults.games:Chain"
RIGGED = "py:tests.faults.games:Rigged"


class Chain(gymnasium.Env[str, str]):
    """Several turns, won whatever is said."""

    max_tokens = 6

    def __init__(self, rounds: int = 3) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self.rounds = rounds
        self.turn_limit = rounds
        self.round = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.round = 0
        return f"Say something about {seed}.", {}

    def step(self, action: str) -> Step:
        self.round += 1
        return f"And then? {self.round}", 1 / self.rounds, self.round == self.rounds, False, {"success": True}


class Rigged(gymnasium.Env[str, str]):
    """The first to play a seed in a process loses, and all after that win.

    So every group is mixed, which gives a learner something to learn from, and in a gate, where the reference plays first, every
    candidate is better.
    """

    turn_limit = 1
    max_tokens = 4
    played: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self.won = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        assert seed is not None
        self.won = seed in self.played
        self.played.add(seed)
        return f"Which number comes after {seed}?", {}

    def step(self, action: str) -> Step:
        return "", float(self.won), True, False, {"success": self.won}
