"""Room on the disk: learning stops before play does, and both continue by themselves when there is room again.

The free space is read at every look; the size of the home is added up once a minute, since that reads all its folders.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perdure.agent.config import DiskSection

GIB = 2**30
LEARNING_SHARE = 0.9
"""Learning stops at this share of the budget."""
LEARNING_FLOOR = 2.0
"""Learning stops below the floor times this."""
SLACK = 0.05
"""What has stopped continues when there is this much more room than it stopped at, so that it does not stop and go all the time."""
WALK_S = 60.0
WAITS_FOR_ROOM = "it waits for room"
"""How the event begins that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUse:
    """How large the home is, and how much of its disk is free."""

    home_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskLack:
    """Why there is no room to learn, and why there is none to play. None: there is room."""

    learn: str | None = None
    play: str | None = None


def disk_lack(settings: DiskSection, usage: DiskUse, before: DiskLack = DiskLack()) -> DiskLack:
    """What there is no room for now; `before` is the result of the last look."""
    return DiskLack(
        learn=_lack(settings, usage, LEARNING_SHARE, LEARNING_FLOOR, SLACK if before.learn else 0.0),
        play=_lack(settings, usage, 1.0, 1.0, SLACK if before.play else 0.0),
    )


def _lack(settings: DiskSection, usage: DiskUse, share: float, floor: float, slack: float) -> str | None:
    limit = settings.budget_gib * GIB * share
    if limit and usage.home_bytes >= limit * (1 - slack):
        return (
            f"the home takes {_gib(usage.home_bytes)} of its budget of {_gib(settings.budget_gib * GIB)}: "
            "`perdure version gc` and `perdure store prune` make room, or raise disk.budget_gib"
        )
    limit = settings.floor_gib * GIB * floor
    if usage.free_bytes < limit * (1 + slack):
        return f"the disk of the home has {_gib(usage.free_bytes)} free and needs {_gib(limit)}: free some space, or lower disk.floor_gib"
    return None


def free_bytes(folder: Path) -> int:
    """How much this user may still write to the disk of the folder."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def size_bytes(folder: Path) -> int:
    """The size of a folder on the disk, with all that is in it. A file that is deleted meanwhile counts as 0."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:
                continue
    return total


class DiskGauge:
    """Looks at the disk of one home, and remembers what is slow to find out."""

    def __init__(self, home: Path, settings: DiskSection, clock: Callable[[], float] = time.monotonic) -> None:
        self._home = home
        self._settings = settings
        self._clock = clock
        self._lack = DiskLack()
        self._home_bytes = 0
        self._walked_s = -math.inf

    def look(self) -> DiskLack:
        """What there is no room for now."""
        if self._settings.budget_gib and self._clock() - self._walked_s >= WALK_S:
            self._home_bytes = size_bytes(self._home)
            self._walked_s = self._clock()
        usage = DiskUse(home_bytes=self._home_bytes, free_bytes=free_bytes(self._home))
        self._lack = disk_lack(self._settings, usage, self._lack)
        return self._lack


def _gib(bytes_: float) -> str:
    return f"{bytes_ / GIB:.3g} GiB"
