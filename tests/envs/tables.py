"""A game for several by the protocol of docs/sources.md: everybody in turn says a number, and the highest sum wins."""

from __future__ import annotations

from typing import Any

import gymnasium

from perdure.envs.environment import AnyText, Environment

ROUNDS = 2


class Table(gymnasium.Env[str, str]):
    """Each seat reads a secret of its own; seat 0 is also paid a little for the answers of seat 1. The number of a text is
    its length."""

    seats = 2
    first = 0
    max_tokens = 4
    reward_low = -1.0
    reward_high = 2.0

    def __init__(self, opponent: str = "serving") -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self.opponent = opponent

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._secrets = self.np_random.integers(100, 1000, self.seats).tolist()
        self._turn, self._sums = 0, [0] * self.seats
        return self._told(), {"seat": self._seat}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._sums[self._seat] += int(action) if action.isdecimal() else len(action)
        reward = 0.25 if self._seat == 1 else 0.0
        self._turn += 1
        if self._turn < ROUNDS * self.seats:
            return self._told(), reward, False, False, {"seat": self._seat}
        won = [float(total == max(self._sums)) for total in self._sums]
        return "", won[0] + reward, True, False, {"rewards": won, "success": bool(won[0])}

    @property
    def _seat(self) -> int:
        return (self.first + self._turn) % self.seats

    def _told(self) -> str:
        return f"secret {self._secrets[self._seat]}, turn {self._turn}"


class SecondBegins(Table):
    first = 1


class SecondOnly(Table):
    """It is over before seat 0 has had a turn."""

    first = 1

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", 1.0, True, False, {"rewards": [1.0, -1.0]}


class Unpaid(Table):
    """Says at the end nothing of what the others got."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {key: value for key, value in info.items() if key != "rewards"}


class Promising(Unpaid):
    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "rewards": "plenty"}


class Nowhere(Table):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        observation, _ = super().reset(seed=seed)
        return observation, {"seat": -1}


def table(kind: type[Table] = Table, **settings: Any) -> Environment:
    values = {"instructions": "Say a number.", "reward_low": -1.0, "reward_high": 2.0, **settings}
    return Environment(name=f"py:tests.envs.tables:{kind.__name__}", make=kind, **values)
