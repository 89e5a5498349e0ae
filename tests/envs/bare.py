"""Classes that are no Gymnasium environments: each has `reset` and `step`, in one of the forms in which people write them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete


class Sum:
    """Add two numbers. The shortest form: no seed, no info, three values."""

    instructions = "Add."
    turn_limit = 1

    def __init__(self, highest: int = 50) -> None:
        self.highest = highest

    def reset(self) -> str:
        self.a, self.b = random.randint(0, self.highest), int(np.random.randint(self.highest))
        return f"{self.a} + {self.b}"

    def step(self, action: str) -> Any:
        return "", float(action.strip() == self.oracle()), True

    def oracle(self) -> str:
        return str(self.a + self.b)


class Seeded(Sum):
    """Takes a seed, and gives four values."""

    def reset(self, seed: int | None = None) -> Any:  # type: ignore[override]
        rng = random.Random(seed)
        self.a, self.b = rng.randint(0, self.highest), rng.randint(0, self.highest)
        return f"{self.a} + {self.b}", {"about": "it"}

    def step(self, action: str) -> Any:
        return "", 1, True, {"success": action == self.oracle()}


class Anything(Seeded):
    """Takes whatever it is given, and gives five values."""

    def reset(self, **given: Any) -> Any:  # type: ignore[override]
        return super().reset(given["seed"])

    def step(self, action: str) -> Any:
        return "", 1.0, np.bool_(True), False, {"success": action == self.oracle()}


class Unseeded(Sum):
    """A generator of its own that cannot be seeded."""

    def reset(self) -> str:
        self.a, self.b = random.SystemRandom().sample(range(10**6), 2)
        return f"{self.a} + {self.b}"


class Chooses:
    """Discrete actions with names, without a base class: step left three times. What is right it says as a number."""

    observation_space = Discrete(4)
    action_space = Discrete(2, start=1)
    action_names = ("left", "right")
    turn_limit = 6
    reward_low = -1.0
    reward_high = 3.0
    threshold = 3.0
    step_timeout_s = 7.0

    def reset(self) -> int:
        self.at = 3
        return self.at

    def step(self, action: Any) -> Any:
        assert isinstance(action, np.int64)
        self.at -= 1
        return self.at, 1.0 if action == 1 else -0.25, self.at == 0

    def oracle(self) -> int:
        return 1

    def close(self) -> None:
        self.at = -1


class Gives(Sum):
    """Returns from `step` what it was made with."""

    gives: Any = None

    def step(self, action: str) -> Any:
        return self.gives


class TwoValues(Gives):
    gives = ("", 1.0)


class NoDone(Gives):
    gives = ("", 1.0, {"done": True})


class FourWithoutInfo(Gives):
    gives = ("", 1.0, True, False)


class Nothing(Gives):
    gives = None


class TextPaid(Gives):
    gives = ("", "1.0", True)


class BytesSeen(Gives):
    gives = (b"", 1.0, True)


class NeedsMore(Sum):
    def reset(self, level: int) -> str:  # type: ignore[override]
        return super().reset()


class StepsBlindly(Sum):
    def step(self) -> Any:  # type: ignore[override]
        return "", 0.0, True


class OtherSpaces(Sum):
    action_space = ("left", "right")


class OnlyResets:
    def reset(self) -> str:
        return ""
