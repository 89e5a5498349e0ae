"""Environments that a model of random weights wins now and then, and soon learns to win."""

from __future__ import annotations

from typing import Any

import gymnasium

from perdure.envs.environment import AnyText

Step = tuple[str, float, bool, bool, dict[str, Any]]


class Starts(gymnasium.Env[str, str]):
    """Won by answers that all start with one of `letters`, in each of `rounds` turns. What is asked does not matter."""

    def __init__(self, letters: str = "abcdefghijklm", rounds: int = 1) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self.max_tokens = 2
        self.letters = letters
        self.rounds = rounds
        self.won: list[bool] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.won = []
        return f"Which number is the largest? {self.np_random.integers(13)}", {}

    def oracle(self) -> str:
        return self.letters[int(self.np_random.integers(len(self.letters)))]

    def step(self, action: str) -> Step:
        self.won.append(action[:1] != "" and action[0] in self.letters)
        return "What comes next?", self.won[-1] / self.rounds, len(self.won) == self.rounds, False, {"success": all(self.won)}


class Never(Starts):
    """Cannot be won."""

    def step(self, action: str) -> Step:
        return "", 0.0, True, False, {"success": False}


class Dries(Starts):
    """Can be won in the first `EPISODES` episodes of the process."""

    EPISODES = 16
    left = EPISODES

    def step(self, action: str) -> Step:
        Dries.left -= 1
        return "", float(Dries.left >= 0), True, False, {"success": Dries.left >= 0}


class Fades(Starts):
    """As `Starts` in the first `left` episodes of the process; then it cannot be won."""

    left = 0

    def step(self, action: str) -> Step:
        Fades.left -= 1
        observation, reward, ended, cut, info = super().step(action)
        return observation, reward * (Fades.left >= 0), ended, cut, {"success": info["success"] and Fades.left >= 0}


class Always(Starts):
    """Cannot be lost."""

    def step(self, action: str) -> Step:
        return "", 1.0, True, False, {"success": True}


class Fails(Starts):
    """Its step raises, every time or for odd seeds only."""

    def __init__(self, odd_only: bool = False) -> None:
        super().__init__()
        self.odd_only = odd_only
        self.seed = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self.seed = seed or 0
        return super().reset(seed=seed)

    def step(self, action: str) -> Step:
        if self.seed % 2 or not self.odd_only:
            raise RuntimeError("it broke")
        return super().step(action)


class Silent(gymnasium.Env[str, str]):
    """Knows no right answer."""

    def __init__(self) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return "What comes next?", {}

    def step(self, action: str) -> Step:
        return "", 0.0, True, False, {"success": False}


class Wordy(Starts):
    """Its right answer is as long as the context of a tiny model."""

    def oracle(self) -> str:
        return "a" * 300


class Tells(Starts):
    """As `Starts`, with a system message of its own for each task."""

    instructions = "Answer."

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        return super().reset(seed=seed)[0], {"instructions": f"Task {seed}."}
