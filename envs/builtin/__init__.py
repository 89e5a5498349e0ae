"""The environments that come with Perdure: small, closed-form, and easy enough that a small model has something to gain."""

from __future__ import annotations

from perdure.envs.builtin.game import TextGame
from perdure.envs.builtin.many_turn_games import DoorCode, GridWalk, GuessNumber, SpellWord
from perdure.envs.builtin.number_games import Add, Compare, EvenOdd, LargestNumber, NextNumber, SmallestNumber, SortNumbers
from perdure.envs.builtin.word_games import (
    CopyWord,
    CountWords,
    FirstWord,
    Initials,
    JsonField,
    KthWord,
    LastWord,
    Membership,
    OddOneOut,
    Opposite,
    SwapWords,
)

BUILTINS: dict[str, type[TextGame]] = {
    "add": Add,
    "compare": Compare,
    "copy-word": CopyWord,
    "count-words": CountWords,
    "door-code": DoorCode,
    "even-odd": EvenOdd,
    "first-word": FirstWord,
    "grid-walk": GridWalk,
    "guess-number": GuessNumber,
    "initials": Initials,
    "json-field": JsonField,
    "kth-word": KthWord,
    "largest-number": LargestNumber,
    "last-word": LastWord,
    "membership": Membership,
    "next-number": NextNumber,
    "odd-one-out": OddOneOut,
    "opposite": Opposite,
    "smallest-number": SmallestNumber,
    "sort-numbers": SortNumbers,
    "spell-word": SpellWord,
    "swap-words": SwapWords,
}
