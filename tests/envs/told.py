"""Environments whose tasks have a system message of their own."""

from __future__ import annotations

import random
from typing import Any

from tests.envs.faulty import Counting

WORDS = ("upper", "lower")


class Told:
    """Which case to write a letter in is said in the system message alone; odd seeds leave it to that of the environment."""

    instructions = "Write the letter in lower case."
    turn_limit, max_tokens = 2, 4

    def reset(self, seed: int = 0) -> tuple[str, dict[str, Any]]:
        self.letter = random.Random(seed).choice("abcdefgh")
        self.upper = seed % 2 == 0
        return self.letter, {"instructions": "Write the letter in upper case."} if self.upper else {}

    def step(self, action: str) -> tuple[str, float, bool]:
        return "", float(action == self.oracle()), True

    def oracle(self) -> str:
        return self.letter.upper() if self.upper else self.letter


class ToldBytes(Counting):
    """Its system message is no text."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        return super().reset(seed=seed)[0], {"instructions": b"Count."}


class ToldHalf(Counting):
    """Its system message has half of a character, and the same as that of the environment in odd tasks."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        own = "Count." if (seed or 0) % 2 else "Count \ud800."
        return super().reset(seed=seed)[0], {"instructions": own}
