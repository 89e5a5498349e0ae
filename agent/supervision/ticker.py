"""A ticker that only says *when*: ticks are names in a queue.

The work that they ask for is in the database, so a lost tick costs nothing. The APScheduler's own job stores are not used: a job in them
can vanish with its process. Left out: what is done at a tick (`supervisor.py`, `daemon_duties.py`), learning at set times
(`alarms.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from typing import Literal

from apscheduler.schedulers.background import BackgroundScheduler

Tick = Literal["pauses", "stream", "learning", "watch", "notify", "beat", "checkpoint"]

EVERY_S: dict[Tick, float] = {
    "pauses": 0.25,
    "stream": 0.5,
    "learning": 1.0,
    "watch": 5.0,
    "notify": 2.0,
    "beat": 2.0,
    "checkpoint": 60.0,
}


def start_ticker(due: Callable[[Tick], None]) -> BackgroundScheduler:
    """Start a thread that calls `due(tick)` whenever a tick is due; `shutdown()` ends it."""
    defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    ticker = BackgroundScheduler(job_defaults=defaults, timezone=UTC)  # intervals need none, and that of the machine may not be known
    for tick, seconds in EVERY_S.items():
        ticker.add_job(due, "interval", args=[tick], seconds=seconds)
    ticker.start()
    return ticker
