"""What five crontab fields mean, as crontab(5) says: when they next come true in a time zone. Pure.

Weekdays count from Sunday, 0 or 7. A day counts if it is in both of its fields when one of them begins with `*`, and if it is in either
of them otherwise. When the clock changes, it is as in the cron of Debian: a time of day that is skipped comes at the end of the gap, one
that is repeated comes once; if minute or hour begins with `*`, every minute that exists counts, each time that it exists. Left out: what
happens then, and times that passed while nothing ran (`alarms.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
AHEAD_DAYS = 41 * 366
"""A 29th of February that must be a certain weekday comes at least once in this time."""
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crontab:
    """Five crontab fields. Use `parse_crontab`."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """From 0, Sunday, to 6."""
    both_days: bool
    """Whether a day must be in both of its fields, not in either."""
    at_set_times: bool
    """Whether neither minute nor hour begins with `*`."""

    def is_on(self, day: date) -> bool:
        """Whether it comes on this day."""
        if day.month not in self.months:
            return False
        found = (day.day in self.days, day.isoweekday() % 7 in self.weekdays)
        return all(found) if self.both_days else any(found)


def parse_crontab(text: str) -> Crontab:
    """Read five fields. Raises `ValueError` if they are not that, or if they never come true."""
    fields = text.split()
    if len(fields) != 5:
        raise ValueError(f"{text!r} has {len(fields)} fields, not five: minute, hour, day of month, month, weekday")
    minute, hour, day, month, weekday = fields
    crontab = Crontab(
        minutes=_field("minute", minute, 0, 59),
        hours=_field("hour", hour, 0, 23),
        days=_field("day of month", day, 1, 31),
        months=_field("month", month, 1, 12, MONTHS),
        weekdays=frozenset(n % 7 for n in _field("weekday", weekday, 0, 7, WEEKDAYS)),
        both_days=day.startswith("*") or weekday.startswith("*"),
        at_set_times=not minute.startswith("*") and not hour.startswith("*"),
    )
    if not any(crontab.is_on(date(2000, 1, 1) + timedelta(days=n)) for n in range(AHEAD_DAYS)):
        raise ValueError(f"{text!r} never comes: no such month has that day")
    return crontab


def next_time(crontab: Crontab, after: datetime) -> datetime:
    """The first time that it comes after `after`, in the zone of `after`."""
    zone = after.tzinfo
    assert zone is not None, "a time without a zone is not known"
    first, after_utc = after.date() - timedelta(days=1), _moment(after)
    found: datetime | None = None
    for n in range(AHEAD_DAYS):
        day = first + timedelta(days=n)
        times = _times_on(crontab, day, zone) if crontab.is_on(day) else iter(())
        earliest = next((when for when in times if _moment(when) > after_utc), None)
        if found is not None:  # a clock that is put back over midnight mixes the times of two days
            return found if earliest is None else min(found, earliest, key=_moment)
        found = earliest
    raise ValueError("it does not come in forty years")


def zone_named(name: str) -> tzinfo:
    """The time zone of this name; that of this machine if it is empty. Raises `ValueError`."""
    if not name:
        from tzlocal import get_localzone

        try:
            return get_localzone()
        except (LookupError, ValueError, OSError) as error:
            raise ValueError("the time zone of this machine is not known: name one in schedule.zone, such as 'Europe/Berlin'") from error
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise ValueError(f"no time zone {name!r} on this machine: write one such as 'Europe/Berlin', or install tzdata with pip") from error


def _times_on(crontab: Crontab, day: date, zone: tzinfo) -> Iterator[datetime]:
    """Its times on a day on which it comes, the earliest first."""
    shown = (datetime.combine(day, time(hour, minute), tzinfo=zone) for hour in sorted(crontab.hours) for minute in sorted(crontab.minutes))
    midnight = datetime.combine(day, time(), tzinfo=zone)
    if midnight.utcoffset() == datetime.combine(day + timedelta(days=1), time(), tzinfo=zone).utcoffset():
        return shown
    if crontab.at_set_times:
        return iter(sorted(map(_after_gap, shown), key=_moment))
    both = (when.replace(fold=fold) for when in shown for fold in (0, 1))
    return iter(sorted({_moment(when): when for when in both if _exists(when)}.values(), key=_moment))


def _moment(when: datetime) -> datetime:
    return when.astimezone(UTC)


def _after_gap(when: datetime) -> datetime:
    """The time itself, or the first one after the gap that it is in."""
    while not _exists(when):
        when = (when.replace(tzinfo=None) + MINUTE).replace(tzinfo=when.tzinfo)
    return when


def _exists(when: datetime) -> bool:
    """Whether the clocks of the zone ever show this time."""
    return _moment(when).astimezone(when.tzinfo).replace(tzinfo=None) == when.replace(tzinfo=None)


def _field(what: str, text: str, low: int, high: int, names: list[str] | None = None) -> frozenset[int]:
    return frozenset(n for part in text.split(",") for n in _part(what, part, low, high, names or []))


def _part(what: str, text: str, low: int, high: int, names: list[str]) -> range:
    """One of the parts between commas: `*`, `a` or `a-b`, each but `a` perhaps with `/step`."""
    span, slash, step = text.partition("/")
    start, dash, end = span.partition("-")
    if span == "*":
        first, last = low, high
    else:
        first = _number(what, start, low, high, names)
        last = _number(what, end, low, high, names) if dash else first
        if dash and end.lower() == WEEKDAYS[0] and names == WEEKDAYS:
            last = high  # fri-sun
    if first > last:
        raise ValueError(f"{what} {text!r} goes from {first} down to {last}: write two parts with a comma between them")
    if slash and not (step.isascii() and step.isdigit() and int(step) > 0):
        raise ValueError(f"{what} {text!r}: a step is a number from 1, as in '*/15'")
    if slash and span != "*" and not dash:
        raise ValueError(f"{what} {text!r}: a step follows '*' or a range, as in '{start}-{high}/{step}'")
    return range(first, last + 1, int(step) if slash else 1)


def _number(what: str, text: str, low: int, high: int, names: list[str]) -> int:
    if text.lower() in names:
        return names.index(text.lower()) + low * (names == MONTHS)
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and low <= int(text) <= high):
        named = f" or {names[0]} to {names[-1]}" if names else ""
        raise ValueError(f"{what} {text!r} is not a number from {low} to {high}{named}")
    return int(text)
