"""Learning at set times: when it is due, and what becomes of times that were missed.

The next time is in the store, so that it survives the daemon: one that has passed while no daemon ran, while the machine slept or while
another job worked is made up for as soon as possible, once, or skipped and written down if `schedule.make_up` is off. The wall clock is
read again and again: it may be set. Left out: what five crontab fields mean (`crontab.py`), and what is learned (`learning_jobs.py`).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, tzinfo

from perdure.agent.config import ScheduleSection
from perdure.agent.supervision.crontab import next_time, parse_crontab, zone_named
from perdure.memory.json_value import iso_utc
from perdure.memory.processes import Alarm, AlarmName, alarms, keep_latest_events, record_event, set_alarms
from perdure.memory.store import Store

MISSED = "missed"
LATE_S = 60.0
"""A time that is later than this was missed."""
LOOK_S = 30.0
"""How often it is checked whether the wall clock was set back."""
MISSED_KEPT = 200
"""Events of missed times."""
CORRECTION_S = 3 * 3600.0
"""A clock that is put back by less than this was corrected: what has come does not come again (as in the cron of Debian)."""


class Alarms:
    """The set times of one daemon. `due` must be called again and again."""

    def __init__(self, store: Store, schedule: ScheduleSection, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._schedule = schedule
        self._clock = clock
        self._looked_s = -math.inf
        known = {alarm.name: alarm for alarm in alarms(store)}
        self._alarms = [self._begun(name, setting, known.get(name)) for name, setting in _settings(schedule).items()]
        set_alarms(store, self._alarms)

    def due(self) -> bool:
        """Whether it is time to learn now. It stays so until `served` is called."""
        now = self._clock()
        if abs(now - self._looked_s) > LOOK_S:
            self._looked_s = now
            self._put([self._corrected(alarm, now) for alarm in self._alarms])
        if not self._schedule.make_up:
            self._put([self._skipped(alarm, now) if now > alarm.next + LATE_S else alarm for alarm in self._alarms])
        return any(now >= alarm.next for alarm in self._alarms)

    def served(self) -> None:
        """What was due has led to a look at what is to be learned: each alarm that had passed is set to its next time."""
        now = self._clock()
        self._put([replace(alarm, next=self._next(alarm.name, now), rung=now) if now >= alarm.next else alarm for alarm in self._alarms])

    def _begun(self, name: AlarmName, setting: str, known: Alarm | None) -> Alarm:
        if known is not None and known.setting == setting:
            return known
        return Alarm(name=name, setting=setting, next=self._next(name, self._clock()))

    def _corrected(self, alarm: Alarm, now: float) -> Alarm:
        """The alarm as the wall clock is now: after that was set back, its next time may be earlier."""
        rung = alarm.rung if alarm.rung is not None else -math.inf
        after = rung if 0 < rung - now < CORRECTION_S else now
        return replace(alarm, next=min(alarm.next, self._next(alarm.name, after)))

    def _skipped(self, alarm: Alarm, now: float) -> Alarm:
        after = self._next(alarm.name, now)
        record_event(self._store, MISSED, f"schedule.{alarm.name}", f"{iso_utc(alarm.next)} has passed; the next is {iso_utc(after)}")
        keep_latest_events(self._store, MISSED, MISSED_KEPT)
        return replace(alarm, next=after)

    def _next(self, name: AlarmName, after: float) -> float:
        if name == "every_minutes":
            return after + self._schedule.every_minutes * 60.0
        zone = zone_named(self._schedule.zone)
        return next_time(parse_crontab(self._schedule.cron), datetime.fromtimestamp(after, zone)).timestamp()

    def _put(self, now: list[Alarm]) -> None:
        if now != self._alarms:
            set_alarms(self._store, now)
            self._alarms = now


def zone_of(alarm: Alarm) -> tzinfo | None:
    """The time zone that its setting names (`_settings`); None if it names none that this machine knows."""
    named = re.search(r"\((.+)\)$", alarm.setting)
    try:
        return zone_named(named[1]) if named else None
    except ValueError:  # such as 'local'
        return None


def _settings(schedule: ScheduleSection) -> dict[AlarmName, str]:
    """Of each alarm that is set, how it is set."""
    found: dict[AlarmName, str] = {}
    if schedule.cron:
        found["cron"] = f"{schedule.cron} ({zone_named(schedule.zone)})"
    if schedule.every_minutes:
        found["every_minutes"] = str(schedule.every_minutes)
    return found
