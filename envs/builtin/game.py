"""The common part of the built-in environments: a question of the seed's own split, a reward of 0 or 1, and an oracle.

A game defines how it begins and the effect of an action; `TextGame` turns that into a `gymnasium.Env`. Options are the keyword arguments of
its constructor. Rewards are closed-form: 1 on the step that succeeds, else 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random

import gymnasium

from perdure.envs.answers import same
from perdure.envs.environment import AnyText, Info, ResetResult, StepResult
from perdure.envs.seeds import Split, split_by_content, split_of
from perdure.memory.errors import InputError

MOST_DRAWS = 10_000


class TextGame(gymnasium.Env[str, str], ABC):
    """An environment with text in and text out, whose tasks are split by content."""

    observation_space = action_space = AnyText()
    instructions: str
    turn_limit: int
    max_tokens: int

    def __init__(self) -> None:
        self._split: Split = "train"
        self._turns = 0
        self._over = True

    @abstractmethod
    def begin(self, rng: Random) -> str:
        """Draw a task; returns the first observation."""

    @abstractmethod
    def act(self, action: str) -> tuple[str, bool | None]:
        """The next observation, and whether the task is now solved (None if it has not ended)."""

    @abstractmethod
    def oracle(self) -> str:
        """The right action now."""

    def content(self, observation: str) -> str:
        """The text that makes this task different from others: it decides the split."""
        return observation

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> ResetResult:
        super().reset(seed=seed)
        if seed is not None:
            self._split = split_of(seed)
        rng = Random(int(self.np_random.integers(2**62)))
        self._turns, self._over = 0, False
        for _ in range(MOST_DRAWS):
            observation = self.begin(rng)
            if split_by_content(self.content(observation)) == self._split:
                return observation, {}
        raise InputError(f"{type(self).__name__} has no {self._split} task with these options: choose options with more different tasks")

    def step(self, action: str) -> StepResult:
        if self._over:
            raise RuntimeError("this episode has ended: call reset() before the next step")
        self._turns += 1
        observation, solved = self.act(action)
        truncated = solved is None and self._turns >= self.turn_limit
        self._over = solved is not None or truncated
        return observation, float(bool(solved)), solved is not None, truncated, {"success": bool(solved)}


class OneTurn(TextGame):
    """One question, one answer, right or wrong."""

    turn_limit = 1
    max_tokens = 8

    @abstractmethod
    def question(self, rng: Random) -> tuple[str, str]:
        """The observation and its only right answer."""

    def begin(self, rng: Random) -> str:
        observation, self._answer = self.question(rng)
        return observation

    def act(self, action: str) -> tuple[str, bool]:
        return "", same(action, self._answer)

    def oracle(self) -> str:
        return self._answer


def check_option(name: str, value: int, low: int, high: int) -> int:
    """The value, if it lies within its bounds; raises `InputError` otherwise."""
    if not low <= value <= high:
        raise InputError(f"option {name}={value}: must be between {low} and {high}")
    return value
