"""One-turn games about numbers."""

from __future__ import annotations

from random import Random

from perdure.envs.builtin.game import OneTurn, check_option


class LargestNumber(OneTurn):
    """The largest of several different numbers."""

    instructions = "Reply with only the largest number."

    def __init__(self, numbers: int = 4, digits: int = 2) -> None:
        super().__init__()
        self.numbers = check_option("numbers", numbers, 2, 9)
        self.digits = check_option("digits", digits, 1, 6)

    def question(self, rng: Random) -> tuple[str, str]:
        values = _different(rng, self.numbers, self.digits)
        return _listed(values), str(max(values))


class SmallestNumber(OneTurn):
    """The smallest of several different numbers."""

    instructions = "Reply with only the smallest number."

    def __init__(self, numbers: int = 4, digits: int = 2) -> None:
        super().__init__()
        self.numbers = check_option("numbers", numbers, 2, 9)
        self.digits = check_option("digits", digits, 1, 6)

    def question(self, rng: Random) -> tuple[str, str]:
        values = _different(rng, self.numbers, self.digits)
        return _listed(values), str(min(values))


class SortNumbers(OneTurn):
    """Several different numbers, smallest first."""

    instructions = "Reply with only the numbers, sorted from smallest to largest."
    max_tokens = 16

    def __init__(self, numbers: int = 3, digits: int = 1) -> None:
        super().__init__()
        self.numbers = check_option("numbers", numbers, 2, 5)
        self.digits = check_option("digits", digits, 1, 3)

    def question(self, rng: Random) -> tuple[str, str]:
        values = _different(rng, self.numbers, self.digits)
        return _listed(values), _listed(sorted(values))


class Add(OneTurn):
    """The sum of a few small numbers."""

    instructions = "Reply with only the sum."

    def __init__(self, highest: int = 20, terms: int = 2) -> None:
        super().__init__()
        self.highest = check_option("highest", highest, 9, 999)
        self.terms = check_option("terms", terms, 2, 4)

    def question(self, rng: Random) -> tuple[str, str]:
        values = [rng.randint(0, self.highest) for _ in range(self.terms)]
        return " + ".join(map(str, values)), str(sum(values))


class Compare(OneTurn):
    """The sign between two different numbers."""

    instructions = "Compare the two numbers. Reply with only < or >."
    max_tokens = 4

    def __init__(self, digits: int = 2) -> None:
        super().__init__()
        self.digits = check_option("digits", digits, 1, 6)

    def question(self, rng: Random) -> tuple[str, str]:
        left, right = _different(rng, 2, self.digits)
        return f"{left} ? {right}", "<" if left < right else ">"


class EvenOdd(OneTurn):
    """Whether a number is even or odd."""

    instructions = "Is the number even or odd? Reply with only even or odd."
    max_tokens = 4

    def __init__(self, digits: int = 3) -> None:
        super().__init__()
        self.digits = check_option("digits", digits, 2, 8)

    def question(self, rng: Random) -> tuple[str, str]:
        value = rng.randrange(10 ** (self.digits - 1), 10**self.digits)
        return str(value), "odd" if value % 2 else "even"


class NextNumber(OneTurn):
    """The number that continues an even-stepped sequence."""

    instructions = "Reply with only the next number of the sequence."

    def __init__(self, shown: int = 3, step: int = 5, start: int = 99) -> None:
        super().__init__()
        self.shown = check_option("shown", shown, 2, 6)
        self.longest_step = check_option("step", step, 1, 99)
        self.start = check_option("start", start, 20, 9999)

    def question(self, rng: Random) -> tuple[str, str]:
        first, step = rng.randint(0, self.start), rng.randint(1, self.longest_step)
        return _listed([first + i * step for i in range(self.shown)]), str(first + self.shown * step)


def _different(rng: Random, count: int, digits: int) -> list[int]:
    return rng.sample(range(0 if digits == 1 else 10 ** (digits - 1), 10**digits), count)


def _listed(values: list[int]) -> str:
    return " ".join(map(str, values))
