"""An environment whose rule a file beside this one sets, so that it can change while it is played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium

from perdure import AnyText

SWITCH = Path(__file__).with_name("switch")


class Switched(gymnasium.Env[str, str]):
    """Won by answers that start with one of the first letters; with 'others' in the file by all but those, with 'nobody' by none."""

    turn_limit = 1
    max_tokens = 2
    letters = "abcdefghijklm"

    def __init__(self) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.rule = SWITCH.read_text() if SWITCH.exists() else "letters"
        return f"Say something about {self.np_random.integers(13)}.", {}

    def oracle(self) -> str:
        return "a"

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        first = action[:1] != "" and action[0] in self.letters
        won = {"letters": first, "others": not first, "nobody": False}[self.rule]
        return "", float(won), True, False, {"success": won}
