"""Scripts that play the other seats of a game."""

from __future__ import annotations

import random
import re


def lowest(told: str, rng: random.Random) -> str:
    """The first square that is free."""
    return re.findall(r"\[(\d)\]", told.rpartition("Available Moves:")[2])[0]


def listening(told: str, rng: random.Random) -> str:
    """Plays like `lowest`, and fails where it was not told everything from the start, in order."""
    assert told.startswith("You are Player"), told
    assert told.count("You are Player") == 1, told
    assert told.count("Available Moves:") == told.count("Current Board:"), told
    return lowest(told, rng)


def silent(told: str, rng: random.Random) -> str:
    return ""
