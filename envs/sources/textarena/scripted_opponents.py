"""Opponents that are not a model: a function of what its seat has read, and of a random generator that the seed of the task decides.

An opponent of your own is named `py:package.module:function`; the built-in one here moves at random.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Script = Callable[[str, random.Random], str]
"""An action, from everything that its seat has read so far, the newest last. It keeps nothing between its turns."""

_MOVE = re.compile(r"\[([^\[\]\n]+)\]")


def random_mover(id_: str) -> Script:
    """A script that makes a random move: one that the game offers in square brackets, or one that its board allows."""
    moves = MOVES.get(id_.partition("-v")[0], _offered)

    def script(text: str, rng: random.Random) -> str:
        return f"[{rng.choice(moves(text) or ['pass'])}]"

    return script


def _offered(text: str) -> list[str]:
    """The moves in brackets in the last line that has any. Lines of players and complaints about moves are skipped."""
    for line in reversed(text.splitlines()):
        if not re.match(r"Player \d+: ", line) and "invalid move" not in line and (moves := _MOVE.findall(line)):
            return moves
    return []


def _nim(text: str) -> list[str]:
    _, _, piles = text.rpartition("Current Pile:")
    return [f"{pile} {n + 1}" for pile, size in re.findall(r"pile (\d+): (\d+)", piles) for n in range(int(size))]


def _connect_four(text: str) -> list[str]:
    """The columns with room: those whose top field is empty."""
    _, _, board = text.rpartition("-------------\n")
    return [f"col {column}" for column, field in enumerate(board.splitlines()[0].split()) if field == "."]


def _briscola(text: str) -> list[str]:
    _, _, hand = text.rpartition("Your hand:")
    return [f"play {card}" for card in re.findall(r"^ +(\d)\. ", hand, re.MULTILINE)]


def _colonel_blotto(text: str) -> list[str]:
    """All units on one field, or one on each of the others and the rest on that field."""
    fields = re.findall(r"Available fields: (.*)", text)[-1].split(", ")
    units = int(re.findall(r"Units to allocate: (\d+)", text)[-1])
    return [
        " ".join(f"{field}{units - rest * (len(fields) - 1) if field == main else rest}" for field in fields)
        for main in fields
        for rest in (0, 1)
    ]


def _indian_poker(text: str) -> list[str]:
    return [move.replace("X", "1") for move in _offered(text)]


def _memory_game(text: str) -> list[str]:
    """Two cards that are face down."""
    board = re.split(r"[Bb]oard:\n", text)[-1]
    rows = [line.split()[1:] for line in board.splitlines()[1:] if re.match(r"\d ", line)]
    down = [f"{r} {c}" for r, row in enumerate(rows) for c, card in enumerate(row) if card == "."]
    return [f"{first} {second}" for first in down for second in down if first != second]


def _two_thirds(text: str) -> list[str]:
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
"""Possible moves of games that do not list them in brackets."""
