"""Watching one child: whether it makes progress, and why it ended. The same for every kind of child.

A process reports from time to time what it does, from the very loop that does it (`agent/processes/pulse.py`). A process that has not
reported for `hang_s` hangs: its Python stacks are written into its log, and it is ended. The wall clock plays no part in this.
"""

from __future__ import annotations

import math
import signal
import time

from perdure.agent.supervision.causes import End, cause_of, oom_kills
from perdure.agent.supervision.children import Child
from perdure.memory.processes import Process, process_of
from perdure.memory.store import Store

LOOK_S = 1.0
DUMP_S = 3.0
"""How long a process that hangs has to write its stacks."""
OOM_WINDOW_S = 15.0
"""A process that was killed was killed by the kernel if memory ran out in the last one or two of these windows."""


class Watched:
    """A child under watch. `poll` must be called again and again."""

    def __init__(self, store: Store, child: Child, hang_s: float) -> None:
        self.child = child
        self.owner = f"{child.name}:{child.pid}"
        """Its name in leases."""
        self.asked = False
        """Whether it was asked to end."""
        self.progress_s = child.started_s
        """When it last made progress, on the monotonic clock."""
        self._store = store
        self._hang_s = hang_s
        self._hung = False
        self._end: End | None = None
        self._beat: float | None = None
        self._looked_s = -math.inf
        self._kill_s = math.inf
        self._oom_kills = (oom_kills(),) * 2
        self._oom_counted_s = time.monotonic()

    def poll(self) -> End | None:
        """How and why it ended; None while it runs. Ends it if it hangs, or if it does not end in time after it was asked to."""
        exit = self.child.poll() if self._end is None else None
        if exit is not None:
            self._end = End(exit=exit, cause=cause_of(exit, hung=self._hung, oom_killed=oom_kills() > self._oom_kills[0]))
        if self._end is not None:
            return self._end
        now_s = time.monotonic()
        if now_s >= self._kill_s:
            self.child.signal(signal.SIGKILL)
        if now_s - self._oom_counted_s > OOM_WINDOW_S:
            self._oom_kills = self._oom_kills[1], oom_kills()
            self._oom_counted_s = now_s
        if now_s - self._looked_s > LOOK_S:
            self._looked_s = now_s
            self._look(now_s)
        return None

    def report(self) -> Process | None:
        """What it last reported of itself."""
        return process_of(self._store, self.child.name, self.child.pid)

    def ask_to_end(self, grace_s: float) -> None:
        """SIGTERM, once, and SIGKILL after `grace_s`."""
        if not self.asked:
            self.asked = True
            self._kill_s = time.monotonic() + grace_s
            self.child.signal(signal.SIGTERM)

    @property
    def lived_s(self) -> float:
        """How long it made progress."""
        return self.progress_s - self.child.started_s

    def _look(self, now_s: float) -> None:
        report = self.report()
        if report is not None and report.beat != self._beat:
            self._beat = report.beat
            self.progress_s = now_s
        elif now_s - self.progress_s > self._hang_s and not self._hung:
            self._hung = True
            self._kill_s = min(self._kill_s, now_s + DUMP_S)
            self.child.signal(signal.SIGABRT)  # Python's fault handler writes the stacks of all threads
