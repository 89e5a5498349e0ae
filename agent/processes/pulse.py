"""How a process says what it does, so that its supervisor sees that it makes progress (`agent/supervision/watch.py`)."""

from __future__ import annotations

import math
import os
import time

from perdure.memory.processes import beat
from perdure.memory.store import Store

BEAT_S = 5.0
"""What still holds is written again after this time."""


class Pulse:
    """What this process says about itself. Call it from the thread that works: another thread would go on while the work hangs."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._latest: tuple[str, str | None] = ("starting", None)
        self._written_s = -math.inf

    @property
    def latest(self) -> tuple[str, str | None]:
        """State and detail that were said last."""
        return self._latest

    def say(self, state: str, detail: str | None) -> None:
        """Write it down if it is new, or if nothing was written for some seconds."""
        now_s = time.monotonic()
        if self._latest != (state, detail) or now_s - self._written_s > BEAT_S:
            beat(self._store, self._name, os.getpid(), state, detail)
            self._latest, self._written_s = (state, detail), now_s

    def go_on(self) -> None:
        """Say that the latest state still holds."""
        self.say(*self._latest)
