"""Scripts that play the other seats of a game."""

from __future__ import annotations

import random
import re


def lowest(text: str, rng: random.Random) -> str:
    """The first square that is free."""
    return re.findall(r"\[(\d)\]", text.rpartition("Available Moves:")[2])[0]


def listening(text: str, rng: random.Random) -> str:
    """Plays like `lowest`, and fails if it did not read everything from the start, in order."""
    assert text.startswith("You are Player"), text
    assert text.count("You are Player") == 1, text
    assert text.count("Available Moves:") == text.count("Current Board:"), text
    return lowest(text, rng)


def silent(text: str, rng: random.Random) -> str:
    return ""
