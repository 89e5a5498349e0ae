"""A time limit of a call into foreign code, in the main thread of a process. In any other thread a call that hangs cannot be interrupted.

The limit is a timer and SIGALRM. Foreign code may use those itself, as scorers with a time limit of their own do: it then stops our timer,
or takes our signal. So there is a second alarm where nothing else could end the call, in a process that plays trusted environments: a
thread that looks at the clock, and another signal.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECOND_SIGNAL: int | None = getattr(signal, "SIGRTMAX", None)
"""Linux has it."""
GRACE_S, LOOK_S = 1.0, 0.5
"""How much later the second alarm comes; how often its thread looks."""


class OverTime(BaseException):
    """A call took too long. Not an `Exception`, so that an environment that catches those does not swallow it."""


class SecondAlarm:
    """Interrupts the main thread after a deadline, again and again while that holds."""

    def __init__(self) -> None:
        self.deadline_s = math.inf
        """On the monotonic clock."""
        self._process = 0
        """Which has the thread: a fork has none."""

    def arm(self, timeout_s: float) -> None:
        if SECOND_SIGNAL is None:
            return
        if self._process != os.getpid():
            self._process = os.getpid()
            signal.signal(SECOND_SIGNAL, self._ring)
            threading.Thread(target=self._watch, name="second alarm", daemon=True).start()
        self.deadline_s = time.monotonic() + timeout_s + GRACE_S

    def disarm(self) -> None:
        self.deadline_s = math.inf

    def _watch(self) -> None:
        main = threading.main_thread().ident
        while main is not None and SECOND_SIGNAL is not None:
            time.sleep(LOOK_S)
            if time.monotonic() > self.deadline_s:
                signal.pthread_kill(main, SECOND_SIGNAL)

    def _ring(self, signum: int, frame: FrameType | None) -> None:
        if time.monotonic() > self.deadline_s:  # it may come just after the call has ended
            raise OverTime


SECOND_ALARM = SecondAlarm()


@contextmanager
def time_limit(timeout_s: float, *, second: bool) -> Iterator[None]:
    """Raises `OverTime` inside the block when it has run too long, and again each second if the block catches that.

    `second`: whether there is also the second alarm.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum: int, frame: FrameType | None) -> None:
        raise OverTime

    before = signal.signal(signal.SIGALRM, ring)
    try:
        if second:
            SECOND_ALARM.arm(timeout_s)
        signal.setitimer(signal.ITIMER_REAL, timeout_s, 1.0)
        yield
    finally:
        try:
            SECOND_ALARM.disarm()
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:  # an alarm may ring once more just before
            SECOND_ALARM.disarm()
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
