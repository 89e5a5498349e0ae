"""Opponents that are no model: a function of what a seat was told, and of a random generator that the seed of the task decides.

An operator's own is named `py:package.module:function`; here is the built-in one, which moves at random.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Script = Callable[[str, random.Random], str]
"""What to do, from all that its seat was told so far, the newest last. It keeps nothing between its turns."""

_MOVE = re.compile(r"\[([^\[\]\n]+)\]")


def random_mover(id_: str) -> Script:
    """A script that makes one of the moves that the game offers in square brackets, or one that its board allows."""
    moves = MOVES.get(id_.partition("-v")[0], _offered)

    def script(told: str, rng: random.Random) -> str:
        return f"[{rng.choice(moves(told) or ['pass'])}]"

    return script


def _offered(told: str) -> list[str]:
    """What stands in brackets in the last line that has any. What players have said, and complaints about moves, are passed over."""
    for line in reversed(told.splitlines()):
        if not re.match(r"Player \d+: ", line) and "invalid move" not in line and (found := _MOVE.findall(line)):
            return found
    return []


def _nim(told: str) -> list[str]:
    _, _, piles = told.rpartition("Current Pile:")
    return [f"{pile} {n + 1}" for pile, size in re.findall(r"pile (\d+): (\d+)", piles) for n in range(int(size))]


def _connect_four(told: str) -> list[str]:
    """The columns with room: those whose top field is empty."""
    _, _, board = told.rpartition("-------------\n")
    return [f"col {column}" for column, field in enumerate(board.splitlines()[0].split()) if field == "."]


def _briscola(told: str) -> list[str]:
    _, _, hand = told.rpartition("Your hand:")
    return [f"play {card}" for card in re.findall(r"^ +(\d)\. ", hand, re.MULTILINE)]


def _colonel_blotto(told: str) -> list[str]:
    """All units on one field, or all but one that goes to each of the others."""
    fields = re.findall(r"Available fields: (.*)", told)[-1].split(", ")
    units = int(re.findall(r"Units to allocate: (\d+)", told)[-1])
    return [
        " ".join(f"{one}{units - rest * (len(fields) - 1) if one == main else rest}" for one in fields)
        for main in fields
        for rest in (0, 1)
    ]


def _indian_poker(told: str) -> list[str]:
    return [move.replace("X", "1") for move in _offered(told)]


def _memory_game(told: str) -> list[str]:
    """Two cards that are face down."""
    board = re.split(r"[Bb]oard:\n", told)[-1]
    rows = [line.split()[1:] for line in board.splitlines()[1:] if re.match(r"\d ", line)]
    down = [f"{r} {c}" for r, row in enumerate(rows) for c, card in enumerate(row) if card == "."]
    return [f"{one} {other}" for one in down for other in down if one != other]


def _two_thirds(told: str) -> list[str]:
    return [str(number) for number in range(101)]


MOVES: dict[str, Callable[[str], list[str]]] = {
    "Briscola": _briscola,
    "ColonelBlotto": _colonel_blotto,
    "ConnectFour": _connect_four,
    "IndianPoker": _indian_poker,
    "IteratedTwoThirdsAverage": _two_thirds,
    "MemoryGame": _memory_game,
    "Nim": _nim,
}
"""Games whose moves are not listed in brackets, and what may be done there."""
