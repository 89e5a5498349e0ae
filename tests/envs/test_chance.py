"""What an environment pays for no skill."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from perdure.agent.config import Config
from perdure.envs.chance import EPISODES, ChanceLevel, choices, measure_chance
from perdure.envs.registry import load_here as load


class Game:
    """One turn, for any text."""

    instructions = "Play."
    turn_limit = 1
    begun = 0

    def reset(self, seed: int | None = None) -> str:
        Game.begun += 1
        self.draw = random.Random(seed)
        return self.task()

    def task(self) -> str:
        return "Your turn."

    def step(self, action: str) -> Any:
        return "", float(self.wins(action)), True

    def wins(self, action: str) -> bool:
        return False


class Hands(Game):
    """A game of chance with three outcomes: what the other one plays cannot be known."""

    instructions = "Reply with only one of: rock, paper, scissors."

    def wins(self, action: str) -> bool:
        beats = {"paper": "rock", "scissors": "paper", "rock": "scissors"}
        return beats.get(action) == self.draw.choice(list(beats))


class Dice(Game):
    """One in six."""

    def task(self) -> str:
        return "Guess what was thrown, 1 to 6."

    def wins(self, action: str) -> bool:
        return action == str(self.draw.randint(1, 6))


class Free(Game):
    def wins(self, action: str) -> bool:
        return True


class Impossible(Game):
    pass


class Sums(Game):
    """Skill: a right answer seldom fits another task."""

    def task(self) -> str:
        self.a, self.b = self.draw.randint(0, 99), self.draw.randint(0, 99)
        return f"{self.a} + {self.b}"

    def wins(self, action: str) -> bool:
        return action == self.oracle()

    def oracle(self) -> str:
        return str(self.a + self.b)


class Sides(Sums):
    """Two answers, as often the one as the other."""

    def oracle(self) -> str:
        return "even" if (self.a + self.b) % 2 == 0 else "odd"


class Copies(Game):
    """A word of the task is right, and it has three."""

    def task(self) -> str:
        self.words = self.draw.sample(["ant", "bee", "cow", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "kite", "lark"], 3)
        return " ".join(self.words)

    def wins(self, action: str) -> bool:
        return action == self.words[0]


class Slow(Game):
    def wins(self, action: str) -> bool:
        time.sleep(0.2)
        return True


class Hangs(Game):
    step_timeout_s = 30.0

    def wins(self, action: str) -> bool:
        time.sleep(60)
        return True


class Breaks(Game):
    def task(self) -> str:
        raise RuntimeError("broken")


class Endless(Game):
    turn_limit = 10**6

    def step(self, action: str) -> Any:
        return "Again.", 0.0, False


def level(game: type[Game], **limits: float) -> ChanceLevel:
    return measure_chance(load(f"py:tests.envs.test_chance:{game.__name__}"), **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("game", "low", "high", "oracle"),
    [
        (Hands, 0.15, 0.55, False),
        (Dice, 0.0, 0.4, False),
        (Free, 1.0, 1.0, False),
        (Impossible, 0.0, 0.0, False),
        (Sums, 0.0, 0.1, True),
        (Sides, 0.25, 0.75, True),
        (Copies, 0.1, 0.6, False),
    ],
)
def test_chance_is_told_from_skill(game: type[Game], low: float, high: float, oracle: bool) -> None:
    """Four standard errors of 20 to 30 episodes: the tasks and answers are the same each time."""
    found = level(game)
    assert found.oracle is oracle
    assert found.success is not None
    assert low <= found.success <= high


@pytest.mark.parametrize("game", [Hands, Sums])
def test_at_most_so_many_tasks_are_played(game: type[Game]) -> None:
    Game.begun = 0
    level(game)
    assert Game.begun <= EPISODES + 1, "one more asks whether it has an oracle"
    Game.begun = 0
    assert level(game, episodes=20).success in (None, 0.0)
    assert Game.begun <= 21


@pytest.mark.parametrize(("game", "oracle"), [(Slow, False), (Hangs, None), (Endless, False)])
def test_it_takes_about_as_long_as_it_may_and_then_the_level_is_unknown(game: type[Game], oracle: bool | None) -> None:
    began = time.monotonic()
    assert level(game, seconds=0.5) == ChanceLevel(success=None, oracle=oracle)
    assert time.monotonic() - began < 10, "64 answers of Slow are 13 s"


def test_an_environment_that_fails_is_unknown_and_nothing_is_raised() -> None:
    assert level(Breaks) == ChanceLevel(success=None, oracle=None)


@pytest.mark.processes
def test_an_environment_in_a_process_of_its_own_is_measured_there() -> None:
    Game.begun = 0
    found = measure_chance(Config().environment("py:tests.envs.test_chance:Free"), seconds=20.0)
    assert (found, Game.begun) == (ChanceLevel(success=1.0, oracle=False), 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Reply with only one of: up, down or left.", ["up", "down", "left"]),
        ("A number between 3 and 5", ["3", "4", "5"]),
        ("90 to 92", ["90", "91", "92"]),
        ("numbers: 4, 12 and 9", []),
        ("Play [rock] or [paper]", ["[rock]", "[paper]"]),
        ("say 'yes' or 'no'", ["yes", "no"]),
        ("1-1000", ["1", "100", "199", "298", "397", "496", "595", "694", "793", "892", "991"]),
        ("9-2", []),
    ],
)
def test_answers_are_read_from_the_words_of_the_environment(text: str, expected: list[str]) -> None:
    assert choices(text) == expected
