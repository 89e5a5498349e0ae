"""The watch in a real store: which tasks count, each once; what an alarm queues; when it is off, and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.watching.watched_home import SUMS, WORDS, WatchedHome, mean

from perdure.agent.watching.finding import expected_range
from perdure.agent.watching.live_watch import AT_ONCE, LiveWatch
from perdure.agent.watching.watch_report import watch_report
from perdure.memory import versions
from perdure.memory.contracts.orders import GateOrder
from perdure.memory.environments import mark_changed, restore, retire
from perdure.memory.jobs import fail_job
from perdure.memory.leases import BootClock
from perdure.memory.processes import events
from perdure.memory.store import create_store
from perdure.memory.tasks import finish_task, lease_tasks
from perdure.memory.watches import EnvironmentWatch, ScoreSums, gated_scores, watches

GATE = {WORDS: (mean(0.3), mean(0.8)), SUMS: (mean(0.5), mean(0.5))}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[WatchedHome]:
    with create_store(tmp_path / "home") as store:
        yield WatchedHome(store)


@pytest.fixture
def watched(home: WatchedHome) -> WatchedHome:
    """v1 serves after its gate, and has been watched since."""
    home.promote_by_gate(GATE)
    look(home)
    return home


def look(home: WatchedHome, temperature: float = 1.0) -> None:
    """What a daemon does that has just started: all that it knows is in the store."""
    LiveWatch(home.store, temperature).tick()


def row(home: WatchedHome, environment: str = WORDS) -> EnvironmentWatch:
    return next(watch for watch in watches(home.store, "v1") if watch.environment == environment)


def seen(home: WatchedHome, environment: str = WORDS) -> tuple[int, float]:
    sums = row(home, environment).seen
    return sums.tasks, sums.total


def told(home: WatchedHome) -> list[str]:
    return [event.message for event in reversed(events(home.store)) if event.kind == "watch"]


# --- what is expected, and what counts ---


def test_what_is_expected_comes_from_the_gate_that_promoted(watched: WatchedHome) -> None:
    assert {watch.environment for watch in watches(watched.store, "v1")} == {WORDS, SUMS}
    assert (row(watched).low, row(watched).high) == expected_range(mean(0.8))
    assert row(watched).seen == ScoreSums()


def test_each_task_counts_once_with_the_mean_of_its_members_whatever_is_restarted(watched: WatchedHome) -> None:
    watched.queue(WORDS)
    watched.play_next([1.0, 0.0])
    watched.play(SUMS, 1.0, 1)
    for _ in range(3):
        look(watched)
    assert (seen(watched), seen(watched, SUMS)) == ((1, 0.5), (1, 1.0))
    watched.play(WORDS, 1.0, 2)
    look(watched)
    look(watched)
    assert (seen(watched), seen(watched, SUMS)) == ((3, 2.5), (1, 1.0))


def test_a_daemon_that_goes_on_looks_at_each_task_once(watched: WatchedHome) -> None:
    duty = LiveWatch(watched.store, 1.0)
    for n in range(1, 4):
        watched.play(WORDS, 1.0, 1)
        duty.tick()
        duty.tick()
        assert seen(watched) == (n, n)


def test_a_task_that_takes_long_is_waited_for(watched: WatchedHome) -> None:
    watched.queue(WORDS)
    ((_, slow),) = lease_tasks(watched.store, "another", 1, 60.0, BootClock())
    watched.play(WORDS, 1.0, 2)
    look(watched)
    assert seen(watched) == (0, 0.0)
    finish_task(watched.store, slow)  # no episode of it was scored
    look(watched)
    assert seen(watched) == (2, 2.0)


def test_a_backlog_is_read_in_parts(watched: WatchedHome) -> None:
    with watched.store.write():
        watched.play(WORDS, 0.8, AT_ONCE + 5)
    look(watched)
    assert seen(watched)[0] == AT_ONCE
    look(watched)
    assert seen(watched)[0] == AT_ONCE + 5


def test_tasks_of_persons_of_other_versions_and_of_other_temperatures_do_not_count(watched: WatchedHome) -> None:
    watched.queue(WORDS, person=True)
    watched.play_next([0.0, 0.0])
    watched.queue(WORDS, 4)
    watched.play_next([0.0, 0.0], version="v0")
    watched.play_next([0.0, 0.0], last="v0")  # the version changed while it was played
    watched.play_next([0.0, 0.0], temperature=0.5)
    watched.play_next([1.0, 0.0])
    look(watched)
    assert seen(watched) == (1, 0.5)


def test_further_gates_narrow_what_is_expected_and_never_widen_it(watched: WatchedHome) -> None:
    before = row(watched)
    versions.add_candidate(watched.store, None, "v2", "v1", "hash-of-v2", None, [WORDS], None)
    watched.gate("v2", {WORDS: (mean(0.8, 120), mean(0.8, 120))}, verdict="reject")
    look(watched)
    narrower = row(watched)
    assert before.low < narrower.low < 0.8 < narrower.high < before.high
    watched.gate("v2", {WORDS: (mean(0.1, 120), mean(0.1, 120))}, verdict="reject")
    look(watched)
    assert row(watched).low == narrower.low, "a fall that gates see must not lower what is expected"


def test_another_serving_version_is_watched_afresh(watched: WatchedHome) -> None:
    watched.play(WORDS, 1.0, 3)
    look(watched)
    versions.rollback(watched.store, None, "as a person wishes")
    look(watched)
    assert watches(watched.store, "v1") == []
    assert [watch.environment for watch in watches(watched.store, "v0")] == [SUMS, WORDS], "v0 was scored as the reference"
    versions.promote(watched.store, "v1", "as a person wishes")
    look(watched)
    assert seen(watched) == (0, 0.0)


def test_scores_from_before_an_environment_changed_do_not_count(watched: WatchedHome) -> None:
    mark_changed(watched.store, WORDS, gate=1, anchor="v1")
    assert gated_scores(watched.store, "v1", WORDS, 1.0) == mean(0.8)
    versions.add_candidate(watched.store, None, "v2", "v1", "hash-of-v2", None, [WORDS], None)
    later = watched.gate("v2", {WORDS: (mean(0.2), mean(0.2))}, verdict="reject")
    mark_changed(watched.store, WORDS, gate=later.gate, anchor="v1")
    assert gated_scores(watched.store, "v1", WORDS, 1.0) == mean(0.2)
    assert gated_scores(watched.store, "v1", WORDS, 1.0, before=later.gate) == []
    assert gated_scores(watched.store, "v1", SUMS, 1.0) == mean(0.5)


# --- alarms ---


def test_a_fall_queues_one_gate_of_the_version_before(watched: WatchedHome) -> None:
    watched.play(WORDS, 0.0, 15)
    watched.play(SUMS, 0.5, 15)
    look(watched)
    (job,) = watched.waiting()
    assert (job.targets, job.order) == ((WORDS,), GateOrder(candidate="v0", leads_to="rollback", why=job.order.why))  # type: ignore[union-attr]
    assert job.order.why is not None  # type: ignore[union-attr]
    assert job.order.why.startswith(f"live play in {WORDS} fell: 0.00 over ")  # type: ignore[union-attr]
    assert row(watched).alarm_job == job.id
    assert told(watched) == [f"{job.order.why}: job {job.id} compares v0 with v1 there"]  # type: ignore[union-attr]
    before = seen(watched)
    watched.play(WORDS, 0.0, 30)
    watched.play(SUMS, 0.0, 30)
    look(watched)
    look(watched)
    assert watched.waiting() == [job], "one confirming gate at a time"
    assert seen(watched) == before
    assert row(watched, SUMS).alarm_job is None
    assert watch_report(watched.store).line().count("fell") == 2


def test_a_rise_is_an_alarm_too(watched: WatchedHome) -> None:
    watched.play(SUMS, 1.0, 30)
    look(watched)
    (job,) = watched.waiting()
    assert job.targets == (SUMS,)
    assert f"live play in {SUMS} rose: 1.00 over" in str(job.order.why)  # type: ignore[union-attr]


def test_good_play_is_no_alarm(watched: WatchedHome) -> None:
    watched.play(WORDS, 0.8, 200)
    watched.play(SUMS, 0.5, 200)
    look(watched)
    look(watched)
    assert watched.waiting() == []
    assert told(watched) == []


def test_a_confirming_gate_that_fails_ends_its_alarm(watched: WatchedHome) -> None:
    watched.play(WORDS, 0.0, 15)
    look(watched)
    (job,) = watched.waiting()
    fail_job(watched.store, watched.lease(job.id), "the learner crashed")
    look(watched)
    assert (row(watched).alarm_job, seen(watched)) == (None, (0, 0.0))
    assert told(watched)[-1].endswith(f"its confirming gate, job {job.id}, came to nothing; the watch begins anew")


def test_an_alarm_that_no_gate_can_confirm_says_so(watched: WatchedHome) -> None:
    """v2 serves after v1, whose files are gone."""
    with watched.store.write() as conn:
        conn.execute("UPDATE version SET path = 'versions/v1' WHERE name = 'v1'")
    versions.add_candidate(watched.store, None, "v2", "v1", "hash-of-v2", None, [WORDS], None)
    found = watched.gate("v2", {WORDS: (mean(0.8), mean(0.9))})
    versions.promote(watched.store, "v2", "all held", gate=found.gate)
    look(watched)
    watched.play(WORDS, 0.0, 15)
    look(watched)
    assert watched.waiting() == []
    (said,) = told(watched)
    assert "no gate can confirm it: the files of v1 are not in" in said
    assert [watch.seen.tasks for watch in watches(watched.store, "v2")] == [0]


# --- when it is off ---


def test_before_the_first_gate_nothing_is_watched(home: WatchedHome) -> None:
    look(home)
    home.play(WORDS, 0.0, 50)
    look(home)
    report = watch_report(home.store)
    assert report.off == "no gate has scored v0, so nothing is expected of it; `perdure gate v0` scores it"
    assert (report.as_json()["environments"], home.waiting()) == ({}, [])


def test_a_version_that_a_person_promoted_is_watched_as_soon_as_a_gate_has_scored_it(home: WatchedHome) -> None:
    versions.promote(home.store, "v1", "I trust it")
    look(home)
    assert watch_report(home.store).line() == ("off: no gate has scored v1, so nothing is expected of it; `perdure gate v1` scores it")
    home.play(WORDS, 0.0, 50)
    look(home)
    assert home.waiting() == []
    home.gate("v1", {WORDS: (mean(0.8), mean(0.8))})  # `perdure gate v1`: of a version that serves
    look(home)
    home.play(WORDS, 0.0, 15)
    look(home)
    assert [job.targets for job in home.waiting()] == [(WORDS,)]


def test_a_version_that_was_gated_and_then_promoted_by_a_person_is_watched(home: WatchedHome) -> None:
    home.gate("v1", GATE, verdict="inconclusive")
    versions.promote(home.store, "v1", "good enough for me")
    look(home)
    home.play(WORDS, 0.0, 15)
    look(home)
    assert [job.targets for job in home.waiting()] == [(WORDS,)]


def test_it_is_off_if_gate_and_play_sample_at_different_temperatures(home: WatchedHome) -> None:
    home.promote_by_gate(GATE, temperature=0.0)
    look(home)
    home.play(WORDS, 0.0, 50)
    look(home)
    assert (watches(home.store, "v1"), home.waiting()) == ([], [])
    assert watch_report(home.store).off == (
        "the gates of v1 sampled at temperature 0 and live play samples at 1; leave gate.temperature unset"
    )


def test_a_change_of_the_temperature_turns_it_off_and_on(watched: WatchedHome) -> None:
    look(watched, temperature=0.7)
    assert watches(watched.store, "v1") == []
    look(watched)
    assert len(watches(watched.store, "v1")) == 2


def test_found_what_is_retired_is_not_watched_and_is_again_when_it_is_back(watched: WatchedHome) -> None:
    daemon = LiveWatch(watched.store, 1.0)
    daemon.tick()
    expected = (row(watched).low, row(watched).high)
    retire(watched.store, WORDS)
    daemon.tick()
    assert {watch.environment for watch in watches(watched.store, "v1")} == {SUMS}
    restore(watched.store, WORDS)
    daemon.tick()
    assert {watch.environment for watch in watches(watched.store, "v1")} == {WORDS, SUMS}
    assert (row(watched).low, row(watched).high) == expected
