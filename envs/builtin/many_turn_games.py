"""Games of several turns. A reward of 1 comes on the turn that solves the game, and only then."""

from __future__ import annotations

from random import Random

from perdure.envs.answers import plain, same
from perdure.envs.builtin.game import TextGame, check_option
from perdure.envs.builtin.vocabulary import KINDS


class GuessNumber(TextGame):
    """Find a number within a few guesses; each wrong guess is answered by higher or lower."""

    instructions = "Guess the number. Reply with only one number."
    max_tokens = 6

    def __init__(self, size: int = 8, turns: int = 4, start: int = 90) -> None:
        super().__init__()
        self.size = check_option("size", size, 2, 1000)
        self.turn_limit = check_option("turns", turns, 1, 20)
        self.start = check_option("start", start, 20, 9999)

    def begin(self, rng: Random) -> str:
        first = rng.randint(1, self.start)
        self._low, self._high = self._range = (first, first + self.size - 1)
        self._secret = rng.randint(*self._range)
        return f"{self._low} to {self._high}"

    def content(self, observation: str) -> str:
        return f"{observation}: {self._secret}"

    def act(self, action: str) -> tuple[str, bool | None]:
        text = plain(action)
        if not (text.isascii() and text.isdecimal() and len(text) <= 9):
            return f"only a number, {self._range[0]} to {self._range[1]}", None
        guess = int(text)
        if guess == self._secret:
            return "right", True
        if guess < self._secret:
            self._low = max(self._low, guess + 1)
            return "higher", None
        self._high = min(self._high, guess - 1)
        return "lower", None

    def oracle(self) -> str:
        """Bisection: certain to succeed if `size` is below 2 ** turns."""
        return str((self._low + self._high) // 2)


class GridWalk(TextGame):
    """Walk to a goal, one step a turn; a few steps away from it are allowed.

    Only the first distance is split by content: later, walks of different splits may meet.
    """

    instructions = "Walk to the goal. Reply with only one of: up, down, left, right."
    max_tokens = 4

    def __init__(self, size: int = 4, slips: int = 0) -> None:
        super().__init__()
        self.size = check_option("size", size, 3, 20)
        self.slips = check_option("slips", slips, 0, 10)
        self.turn_limit = 2 * size + 2 * slips

    def begin(self, rng: Random) -> str:
        self._right = self._up = self._slipped = 0
        while not self._distance():
            self._right, self._up = rng.randint(-self.size, self.size), rng.randint(-self.size, self.size)
        return self._seen()

    def act(self, action: str) -> tuple[str, bool | None]:
        before = self._distance()
        match plain(action):
            case "right":
                self._right -= 1
            case "left":
                self._right += 1
            case "up":
                self._up -= 1
            case "down":
                self._up += 1
        if self._distance() >= before:
            self._slipped += 1
        if self._slipped > self.slips:
            return "lost", False
        return (self._seen(), None) if self._distance() else ("there", True)

    def oracle(self) -> str:
        if self._right:
            return "right" if self._right > 0 else "left"
        return "up" if self._up > 0 else "down"

    def _distance(self) -> int:
        return abs(self._right) + abs(self._up)

    def _seen(self) -> str:
        steps = [(abs(self._right), "right" if self._right > 0 else "left"), (abs(self._up), "up" if self._up > 0 else "down")]
        return "goal: " + ", ".join(f"{count} {way}" for count, way in steps if count)


class DoorCode(TextGame):
    """Remember the codes of some doors, and give one of them when asked. Before the question, the only right answer is `ok`."""

    instructions = "Remember the codes and reply ok. Later, reply with only the code of the door."
    max_tokens = 6

    def __init__(self, doors: int = 2, digits: int = 2, waits: int = 0) -> None:
        super().__init__()
        self.doors = check_option("doors", doors, 1, 6)
        self.digits = check_option("digits", digits, 2, 6)
        self.waits = check_option("waits", waits, 0, 8)
        self.turn_limit = 2 + waits

    def begin(self, rng: Random) -> str:
        doors = rng.sample(KINDS["colour"], self.doors)
        codes = [str(rng.randrange(10 ** (self.digits - 1), 10**self.digits)) for _ in doors]
        asked = rng.randrange(self.doors)
        self._door, self._code = doors[asked], codes[asked]
        self._waiting = self.waits
        self._asked = False
        return ", ".join(f"{door} {code}" for door, code in zip(doors, codes, strict=True))

    def act(self, action: str) -> tuple[str, bool | None]:
        if self._asked:
            return "", same(action, self._code)
        if not same(action, "ok"):
            return "", False
        if self._waiting:
            self._waiting -= 1
            return "wait", None
        self._asked = True
        return f"{self._door}?", None

    def oracle(self) -> str:
        return self._code if self._asked else "ok"


class SpellWord(TextGame):
    """Spell a made-up word, one letter a turn; the first wrong letter ends it."""

    instructions = "Spell the word. Reply with only one letter each time."
    max_tokens = 4

    def __init__(self, letters: int = 3) -> None:
        super().__init__()
        self.letters = check_option("letters", letters, 3, 8)
        self.turn_limit = self.letters

    def begin(self, rng: Random) -> str:
        self._word = "".join(rng.choice("aeiou" if i % 2 else "bcdfghjklmnprstvwz") for i in range(self.letters))
        self._done = 0
        return self._word

    def act(self, action: str) -> tuple[str, bool | None]:
        if not same(action, self.oracle()):
            return "wrong", False
        self._done += 1
        return ("next", None) if self._done < len(self._word) else ("done", True)

    def oracle(self) -> str:
        return self._word[self._done]
