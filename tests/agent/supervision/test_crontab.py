"""What crontab fields mean: by hand, against cronsim (the cron of Debian), and over both changes of the clock."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perdure.agent.supervision.crontab import Crontab, next_time, parse_crontab

BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = datetime(2026, 11, 30, 12, tzinfo=BERLIN)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "Asia/Kolkata", "Africa/Cairo", "America/Sao_Paulo", "Asia/Tehran")
"""With changes of whole hours: cronsim steps over a change of half an hour."""


def times(fields: str, after: datetime, n: int = 1) -> list[str]:
    found = []
    for _ in range(n):
        after = next_time(parse_crontab(fields), after)
        found.append(after.isoformat(timespec="minutes"))
    return found


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ("0 3 * * 0", ["2026-12-06T03:00+01:00", "2026-12-13T03:00+01:00"]),
        ("0 3 * * 7", ["2026-12-06T03:00+01:00", "2026-12-13T03:00+01:00"]),
        ("0 3 * * sun", ["2026-12-06T03:00+01:00", "2026-12-13T03:00+01:00"]),
        ("0 3 * * 1-5", ["2026-12-01T03:00+01:00", "2026-12-02T03:00+01:00"]),
        ("0 3 * * fri-sun", ["2026-12-04T03:00+01:00", "2026-12-05T03:00+01:00"]),
        ("0 3 13 * 5", ["2026-12-04T03:00+01:00", "2026-12-11T03:00+01:00"]),
        ("0 3 */2 * 5", ["2026-12-11T03:00+01:00", "2026-12-25T03:00+01:00"]),
        ("*/20 9-10 1 jan,FEB *", ["2027-01-01T09:00+01:00", "2027-01-01T09:20+01:00"]),
        ("0 0 29 2 *", ["2028-02-29T00:00+01:00", "2032-02-29T00:00+01:00"]),
        ("59 23 31 12 *", ["2026-12-31T23:59+01:00", "2027-12-31T23:59+01:00"]),
    ],
)
def test_fields_mean_what_crontab_means(fields: str, wanted: list[str]) -> None:
    assert times(fields, MONDAY, 2) == wanted


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ("0 3 30 2 *", "never comes"),
        ("0 3 31 4,6 *", "never comes"),
        ("0 3 * *", "has 4 fields"),
        ("0 3 * * 8", "weekday '8' is not a number from 0 to 7 or sun to sat"),
        ("60 3 * * *", "minute '60'"),
        ("0 -1 * * *", "hour ''"),
        ("0 3 0 * *", "day of month '0'"),
        ("0 3 * * 5-1", "from 5 down to 1"),
        ("*/0 3 * * *", "a step is a number from 1"),
        ("5/10 * * * *", "as in '5-59/10'"),
        ("0 ٣ * * *", "hour '٣'"),
        ("1,,2 3 * * *", "minute ''"),
        ("", "has 0 fields"),
    ],
)
def test_what_is_no_crontab_is_refused(fields: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        parse_crontab(fields)


def test_a_time_of_day_comes_once_on_the_days_on_which_the_clock_changes() -> None:
    spring, autumn = datetime(2027, 3, 27, 12, tzinfo=BERLIN), datetime(2026, 10, 24, 12, tzinfo=BERLIN)
    assert times("30 2 * * *", spring, 2) == ["2027-03-28T03:00+02:00", "2027-03-29T02:30+02:00"]
    assert times("30 2 * * *", autumn, 2) == ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]
    in_the_second = datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1)
    assert times("30 2 * * *", in_the_second) == ["2026-10-26T02:30+01:00"], "it has come in the first"


def test_every_half_hour_is_half_an_hour_also_when_the_clock_changes() -> None:
    for zone, day in ((BERLIN, (2027, 3, 28)), (BERLIN, (2026, 10, 25)), (ZoneInfo("Australia/Lord_Howe"), (2027, 4, 4))):
        at = datetime(*day, tzinfo=zone)
        for _ in range(60):
            then = next_time(parse_crontab("*/30 * * * *"), at)
            assert then.astimezone(UTC) - at.astimezone(UTC) == timedelta(minutes=30)
            at = then


def parsed(fields: str) -> Crontab | str:
    """The crontab, or why it is none."""
    try:
        return parse_crontab(fields)
    except ValueError as error:
        return str(error)


def field(low: int, high: int) -> st.SearchStrategy[str]:
    spans = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted).filter(lambda ends: ends[0] < ends[1])
    parts = st.one_of(
        st.integers(low, high).map(str),
        spans.map(lambda ends: f"{ends[0]}-{ends[1]}"),
        st.tuples(spans, st.integers(1, 9)).map(lambda each: f"{each[0][0]}-{each[0][1]}/{each[1]}"),
        st.integers(1, high).map(lambda step: f"*/{step}"),
    )
    return st.one_of(st.just("*"), st.lists(parts, min_size=1, max_size=3).map(",".join))


FIELDS = st.tuples(field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7)).map(" ".join)
STARTS = st.datetimes(datetime(2015, 1, 1), datetime(2030, 1, 1))


@given(FIELDS, STARTS, st.sampled_from(ZONES))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_fuzzed_fields_come_when_the_cron_of_debian_says(fields: str, start: datetime, zone: str) -> None:
    after = start.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC).astimezone(ZoneInfo(zone))
    assume(after.replace(fold=0).utcoffset() == after.replace(fold=1).utcoffset())  # cronsim forgets in which of two hours it is
    crontab = parsed(fields)
    if isinstance(crontab, str):
        assert "never comes" in crontab
        return
    theirs = CronSim(fields, after)
    for _ in range(5):
        wanted = next(theirs)
        while wanted.astimezone(UTC) <= after.astimezone(UTC):  # of two times in one gap it gives its end twice
            wanted = next(theirs)
        after = next_time(crontab, after)
        assert after.astimezone(UTC) == wanted.astimezone(UTC)


@given(st.text(max_size=30))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_fuzzed_text_is_a_crontab_or_a_value_error(text: str) -> None:
    crontab = parsed(text)
    assert crontab if isinstance(crontab, str) else next_time(crontab, MONDAY) > MONDAY
