"""Learning at set times: what is missed is made up for once, or skipped and written down; the clock may be set."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from perdure.agent.config import ScheduleSection
from perdure.agent.supervision.alarms import MISSED_KEPT, Alarms
from perdure.memory.processes import alarms, last_event
from perdure.memory.store import Store, create_store

NIGHTLY = ScheduleSection(cron="0 3 * * *", zone="UTC")
HOUR = 3600.0


class WallClock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 30, 2, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create_store(tmp_path / "home") as store:
        yield store


def next_at(store: Store) -> list[str]:
    return [datetime.fromtimestamp(alarm.next, UTC).strftime("%d %H:%M") for alarm in alarms(store)]


def test_it_is_due_until_it_is_served(store: Store) -> None:
    clock = WallClock()
    nightly = Alarms(store, NIGHTLY, clock)
    assert next_at(store) == ["30 03:00"]
    assert not nightly.due()
    clock.now += HOUR
    assert nightly.due()
    clock.now += HOUR
    assert nightly.due(), "a job worked meanwhile"
    nightly.served()
    assert not nightly.due()
    assert next_at(store) == ["01 03:00"]


def test_a_time_that_passed_while_no_daemon_ran_is_made_up_for_once(store: Store) -> None:
    clock = WallClock()
    Alarms(store, NIGHTLY, clock)
    clock.now += 72 * HOUR
    later = Alarms(store, NIGHTLY, clock)
    assert later.due()
    later.served()
    assert not later.due()
    assert next_at(store) == ["03 03:00"]


def test_without_making_up_it_is_skipped_and_written_down(store: Store) -> None:
    clock = WallClock()
    strict = NIGHTLY.model_copy(update={"make_up": False})
    Alarms(store, strict, clock)
    clock.now += 72 * HOUR
    later = Alarms(store, strict, clock)
    assert not later.due()
    missed = last_event(store, "missed")
    assert missed is not None
    assert missed.message == "2026-11-30T03:00:00+00:00 has passed; the next is 2026-12-03T03:00:00+00:00"
    clock.now += HOUR + 30
    assert later.due(), "half a minute late is in time"


def test_another_setting_begins_anew(store: Store) -> None:
    clock = WallClock()
    Alarms(store, NIGHTLY, clock)
    clock.now += 72 * HOUR
    assert not Alarms(store, ScheduleSection(cron="0 4 * * *", zone="UTC"), clock).due()
    assert not Alarms(store, ScheduleSection(), clock).due()
    assert alarms(store) == []


def test_an_interval_survives_restarts(store: Store) -> None:
    clock = WallClock()
    for _ in range(3):
        assert not Alarms(store, ScheduleSection(every_minutes=120), clock).due()
        clock.now += 0.7 * HOUR
    assert Alarms(store, ScheduleSection(every_minutes=120), clock).due()


def test_a_clock_that_was_wrong_for_a_moment_delays_nothing_for_years(store: Store) -> None:
    clock = WallClock()
    right = clock.now
    clock.now += 20 * 365 * 24 * HOUR
    both = Alarms(store, ScheduleSection(cron="0 3 * * *", zone="UTC", every_minutes=60), clock)
    clock.now = right
    assert not both.due()
    assert next_at(store) == ["30 03:00", "30 03:00"]


def test_a_clock_that_is_corrected_by_an_hour_brings_nothing_twice(store: Store) -> None:
    clock = WallClock()
    nightly = Alarms(store, NIGHTLY, clock)
    clock.now += HOUR
    assert nightly.due()
    nightly.served()
    clock.now -= 0.5 * HOUR
    assert not nightly.due()
    clock.now += 0.6 * HOUR
    assert not nightly.due()
    assert next_at(store) == ["01 03:00"]


def test_found_events_of_missed_times_do_not_add_up_for_ever(store: Store) -> None:
    clock = WallClock()
    often = Alarms(store, ScheduleSection(cron="* * * * *", zone="UTC", make_up=False), clock)
    for _ in range(MISSED_KEPT + 10):
        clock.now += 600
        often.due()
    assert store.rows("SELECT count(*) AS n FROM event WHERE kind = 'missed'")[0]["n"] == MISSED_KEPT
