"""Environments that each break one rule. `Counting` breaks none: count up to three, one number a turn."""

from __future__ import annotations

import math
import random
import time
from contextlib import suppress
from typing import Any, ClassVar

import gymnasium
from gymnasium.spaces import Text

from perdure.envs.environment import AnyText, Environment

Stepped = tuple[str, Any, bool, bool, dict[str, Any]]


class Counting(gymnasium.Env[str, str]):
    """Count up from a number, three turns long."""

    instructions = "Count."
    turn_limit = 5

    def __init__(self, reward: float = 1.0) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self.reward = reward
        self.closed = False
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.now = int(self.np_random.integers(10**6))
        self.steps = 0
        return str(self.now), {}

    def step(self, action: str) -> Stepped:
        self.steps += 1
        right = action == self.oracle()
        self.now += 1
        ended = not right or self.steps == 3
        return str(self.now), self.reward if ended and right else 0.0, ended, False, {"success": ended and right}

    def oracle(self) -> str:
        return str(self.now + 1)

    def close(self) -> None:
        self.closed = True


class TextReward(Counting):
    def step(self, action: str) -> Stepped:
        return "", "well done", True, False, {}


class NanReward(Counting):
    def step(self, action: str) -> Stepped:
        return "", math.nan, True, False, {}


class NoText(Counting):
    def step(self, action: str) -> Stepped:
        return 7, 1.0, True, False, {}  # type: ignore[return-value]


class LooseSuccess(Counting):
    def step(self, action: str) -> Stepped:
        return "", 1.0, True, False, {"success": "yes"}


class OldForm(Counting):
    def step(self, action: str) -> Stepped:
        return "", 1.0, True, {}  # type: ignore[return-value]


class FailsAtReset(Counting):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        raise KeyError("no data")


class FailsAtStep(Counting):
    def step(self, action: str) -> Stepped:
        raise ValueError(f"cannot read {action}")


class FailsAtClose(Counting):
    def close(self) -> None:
        raise OSError("already gone")


class ExitsWhenMade(Counting):
    def __init__(self) -> None:
        raise SystemExit(4)


class ExitsAtStep(Counting):
    def step(self, action: str) -> Stepped:
        raise SystemExit(5)


class ExitsAtClose(Counting):
    def close(self) -> None:
        raise SystemExit(6)


class Mute(Counting):
    """Its error cannot say what it is."""

    def step(self, action: str) -> Stepped:
        class Unspeakable(Exception):
            def __str__(self) -> str:
                raise ValueError("no words")

        raise Unspeakable


class ManyTurns(Counting):
    turn_limit = "many"  # type: ignore[assignment]


class NoLow(Counting):
    reward_low = None


class Hangs(Counting):
    """Swallows every ordinary exception while it waits."""

    def step(self, action: str) -> Stepped:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with suppress(Exception):
                time.sleep(0.05)
        return "", 0.0, True, False, {}


class Prints(Counting):
    def step(self, action: str) -> Stepped:
        print("noise")
        return super().step(action)


class NeverEnds(Counting):
    def step(self, action: str) -> Stepped:
        return "again", 0.25, False, False, {}


class Scored(Counting):
    """Says nothing of success; its return is what the policy asks for."""

    def step(self, action: str) -> Stepped:
        return "", float(action), True, False, {}


class Truncates(Counting):
    def step(self, action: str) -> Stepped:
        return "", 0.0, False, True, {}


class GlobalRandom(Counting):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.now = random.randrange(10**6)
        return str(self.now), {}


class HashOrder(Counting):
    """The order of a set of strings is another in every process."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.now = int("".join(str(ord(word) % 10) for word in set("abcdefghijklmnop")))
        return str(self.now), {}


class ProcessOrder(Counting):
    """Every process has tasks of its own."""

    BORN = int(time.time_ns() % 10**6)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.now += self.BORN
        return str(self.now), {}


class OneTask(Counting):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.now = 0
        return "0", {}


class AnythingGoes(Counting):
    def step(self, action: str) -> Stepped:
        return "", 1.0, True, False, {"success": True}


class WrongOracle(Counting):
    def oracle(self) -> str:
        return "no idea" if self.steps else str(self.now + 2)

    def step(self, action: str) -> Stepped:
        return "", 0.0, True, False, {"success": False}


class PaysForTrying(Counting):
    def step(self, action: str) -> Stepped:
        return "", 0.9, True, False, {"success": False}

    oracle = None  # type: ignore[assignment]


class Remembers(Counting):
    past = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        first, info = super().reset(seed=seed)
        self.past += first + " "
        return self.past, info


class Changes(Counting):
    """After its end, a second try counts."""

    def step(self, action: str) -> Stepped:
        self.steps += 1
        return "", float(self.steps > 1), True, False, {"success": self.steps > 1}


class Bytes(Counting):
    def step(self, action: str) -> Stepped:
        return b"seven", 1.0, True, False, {}  # type: ignore[return-value]


class NarrowText(Counting):
    """Gymnasium's text has no spaces unless they are listed."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = Text(20)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        first, info = super().reset(seed=seed)
        return f"Count from {first}", info


class Unseeded(Counting):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        return super().reset()


class SeedsGlobally(Counting):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        random.seed(seed)
        super().reset(seed=seed)
        self.now = random.randrange(10**6)
        return str(self.now), {}


class ModuleState(Counting):
    """What was played before in this process is part of the next task."""

    played: ClassVar[list[int]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.now += len(self.played)
        self.played.append(self.now)
        return str(self.now), {}


class FewTasks(Counting):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.now = int(self.np_random.integers(100))
        return str(self.now), {}


class ChokesOnNonsense(Counting):
    def step(self, action: str) -> Stepped:
        if not action.isascii():
            raise ValueError(f"cannot score {action!a}")
        return super().step(action)


class MostlyYes(Counting):
    """Nine answers of ten are the same."""

    def oracle(self) -> str:
        return "no" if self.now % 10 == 0 else "yes"

    def step(self, action: str) -> Stepped:
        right = action == self.oracle()
        return "", float(right), True, False, {"success": right}


class Inverted(Counting):
    """Of the arms that it offers, the right one pays nothing, and the others do."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return f"{self.now}: choose [red] or [blue]", {}

    def oracle(self) -> str:
        return "[red]"

    def step(self, action: str) -> Stepped:
        return "", 0.4 if action == "[blue]" else 0.0, True, False, {"success": action == "[red]"}


class SpeaksTemplate(Counting):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        first, info = super().reset(seed=seed)
        return f"{first}<|im_end|>", info


class Escapes(Counting):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        first, info = super().reset(seed=seed)
        return f"\x1b[31m{first}\x1b[0m", info


class Surrogates(Counting):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        first, info = super().reset(seed=seed)
        return f"{first}\ud800", info


class RepeatsHistory(Counting):
    history = "The numbers so far, one after the other:"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        first, info = super().reset(seed=seed)
        self.said_so_far = f"{self.history} {first}"
        return self.said_so_far, info

    def step(self, action: str) -> Stepped:
        _, *rest = super().step(action)
        self.said_so_far += f" {action}"
        return self.said_so_far, *rest  # type: ignore[return-value]


class Slow(Counting):
    def step(self, action: str) -> Stepped:
        time.sleep(0.15)
        return super().step(action)


def environment(kind: type[Counting], **settings: Any) -> Environment:
    """An environment of one of these classes, as the registry would make it."""
    return Environment(
        **{"name": f"py:tests.envs.faulty:{kind.__name__}", "make": kind, "instructions": "Count.", "turn_limit": 5, **settings}
    )
