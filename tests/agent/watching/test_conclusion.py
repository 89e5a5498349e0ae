"""What follows from a confirming gate, in a real store: a rollback, a change with a name, or a watch that begins anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.agent.watching.watched_home import SUMS, WORDS, WatchedHome, mean

from perdure.agent.commands.status import report
from perdure.agent.show.summary import about
from perdure.agent.watching.conclusion import conclude
from perdure.agent.watching.finding import expected_range
from perdure.agent.watching.live_watch import LiveWatch
from perdure.memory import versions
from perdure.memory.contracts.results import GateResult
from perdure.memory.environments import Registration, anchor_of, list_environments
from perdure.memory.gates import last_verdict
from perdure.memory.jobs import finish_job, get_job
from perdure.memory.processes import Event, events
from perdure.memory.records import Lease
from perdure.memory.store import create_store
from perdure.memory.trajectories.episodes import success_rates
from perdure.memory.versions import serving
from perdure.memory.watches import EnvironmentWatch, watches


@pytest.fixture
def home(tmp_path: Path) -> Iterator[WatchedHome]:
    with create_store(tmp_path / "home") as store:
        home = WatchedHome(store)
        home.promote_by_gate({WORDS: (mean(0.3), mean(0.8)), SUMS: (mean(0.6), mean(0.6))})
        LiveWatch(store, 1.0).tick()
        yield home


def alarm(home: WatchedHome, *environments: str) -> Lease:
    """Live play falls to nothing in these; the lease of the job that is to confirm it."""
    for name in environments:
        home.play(name, 0.0, 40)
    LiveWatch(home.store, 1.0).tick()
    (job,) = home.waiting()
    assert set(job.targets) == set(environments)
    return home.lease(job.id)


def confirm(
    home: WatchedHome, lease: Lease, *, serving: float, former: float, shown: Sequence[str] = (), environments: Sequence[str] = (WORDS,)
) -> GateResult:
    """Close the confirming gate with these scores, and conclude."""
    scores = {name: (mean(serving, 100), mean(former, 100)) for name in environments}
    found = home.gate("v0", scores, under=lease, verdict="promote" if shown else "inconclusive", shown=shown)
    conclude(home.store, lease.subject, found)
    finish_job(home.store, lease, found, "v0")
    return found


def known(home: WatchedHome, name: str = WORDS) -> Registration:
    return next(one for one in list_environments(home.store) if one.name == name)


def row(home: WatchedHome, name: str = WORDS) -> EnvironmentWatch:
    return next(watch for watch in watches(home.store, serving(home.store).name) if watch.environment == name)


def latest(home: WatchedHome, kind: str) -> Event:
    return next(event for event in events(home.store) if event.kind == kind)


def test_a_loss_that_is_shown_rolls_back_with_the_evidence_as_its_reason(home: WatchedHome) -> None:
    found = confirm(home, alarm(home, WORDS), serving=0.1, former=0.6, shown=[WORDS])
    assert serving(home.store).name == "v0"
    (*_, move) = versions.moves(home.store)
    assert (move.kind, move.to_version) == ("rollback", "v0")
    assert move.reason.startswith(f"live play in {WORDS} fell: 0.00 over ")
    assert move.reason.endswith(f"gate {found.gate}: v1 scores 0.10 on 100 fresh tasks, 0.80 before; v0 scores 0.60, 0.30 before")
    assert versions.get_version(home.store, "v1").state == "retired"
    assert known(home).changed_at is None
    assert watches(home.store, "v1") == []
    LiveWatch(home.store, 1.0).tick()
    assert [watch.environment for watch in watches(home.store, "v0")] == [SUMS, WORDS]
    assert home.waiting() == []


def test_a_confirming_gate_is_no_verdict_on_a_candidate_and_is_told_as_what_it_is(home: WatchedHome) -> None:
    before = last_verdict(home.store)
    lease = alarm(home, WORDS)
    found = confirm(home, lease, serving=0.1, former=0.6, shown=[WORDS])
    assert before is not None
    assert last_verdict(home.store) == before
    assert before.id < found.gate
    (line,) = about(get_job(home.store, lease.subject))
    assert line.startswith(f"Job {lease.subject}: gate on {WORDS}: live play in {WORDS} fell: 0.00 over ")
    assert line.endswith("; v0 was shown to be better than v1 there")


def test_an_environment_in_which_both_fall_has_changed(home: WatchedHome) -> None:
    with home.store.write() as conn:
        conn.execute("UPDATE environment SET anchor = 'v0'")
        conn.executemany(
            "INSERT INTO dev_score (version, environment, temperature, seeds, scored, total) VALUES ('v0', ?, 1.0, 64, 64, ?)",
            [(WORDS, 19.0), (SUMS, 32.0)],
        )
    found = confirm(home, alarm(home, WORDS), serving=0.0, former=0.0)
    assert serving(home.store).name == "v1"
    changed = known(home)
    assert changed.changed_at is not None
    assert (changed.changed_gate, changed.anchor, anchor_of(home.store, SUMS)) == (found.gate, "v1", "v0")
    assert [one["environment"] for one in home.store.rows("SELECT environment FROM dev_score")] == [SUMS]
    assert success_rates(home.store, "v1").keys() == set(), "live rates begin anew too"
    event = latest(home, "changed")
    assert event.subject == WORDS
    assert event.message.endswith(
        f"gate {found.gate}: v1 scores 0.00 on 100 fresh tasks, 0.80 before; v0 scores 0.00, 0.30 before: this environment has changed, "
        "and v1 is its anchor from now on"
    )
    begun = row(home)
    assert (begun.low, begun.high) == expected_range(mean(0.0, 100)), "what is expected now is what is seen now"
    assert (begun.seen.tasks, begun.alarm_job) == (0, None)
    shown = report(home.store)
    assert WORDS in shown.as_json()["watch"]["changed"]
    assert f"{WORDS} has changed (" in shown.watch.line()


def test_what_has_changed_is_watched_for_the_next_change(home: WatchedHome) -> None:
    confirm(home, alarm(home, WORDS), serving=0.0, former=0.0)
    home.play(WORDS, 0.0, 200)
    LiveWatch(home.store, 1.0).tick()
    assert home.waiting() == []
    home.play(WORDS, 0.9, 30)
    LiveWatch(home.store, 1.0).tick()
    (job,) = home.waiting()
    confirm(home, home.lease(job.id), serving=0.9, former=0.9)
    assert latest(home, "changed").message.startswith(f"live play in {WORDS} rose: ")


def test_a_false_alarm_begins_anew_with_what_its_gate_saw(home: WatchedHome) -> None:
    found = confirm(home, alarm(home, WORDS), serving=0.7, former=0.3)
    assert (serving(home.store).name, known(home).changed_at) == ("v1", None)
    assert latest(home, "watch").message.endswith(
        f"gate {found.gate}: v1 scores 0.70 on 100 fresh tasks, 0.80 before; v0 scores 0.30, 0.30 before: no loss and no change was "
        "shown; the watch begins anew"
    )
    begun = row(home)
    assert (begun.low, begun.high) == expected_range([*mean(0.8), *mean(0.7, 100)])
    assert (begun.seen.tasks, begun.fell, begun.alarm_job) == (0, 0.0, None)


def test_several_alarms_have_one_gate_and_a_finding_each(home: WatchedHome) -> None:
    lease = alarm(home, WORDS, SUMS)
    scores = {WORDS: (mean(0.1, 100), mean(0.6, 100)), SUMS: (mean(0.0, 100), mean(0.0, 100))}
    conclude(home.store, lease.subject, home.gate("v0", scores, under=lease, shown=[WORDS]))
    assert serving(home.store).name == "v0"
    assert (known(home, WORDS).changed_at, known(home, SUMS).anchor) == (None, "v0")
    assert known(home, SUMS).changed_at is not None


def test_nothing_follows_if_another_version_serves_by_then(home: WatchedHome) -> None:
    lease = alarm(home, WORDS)
    found = home.gate("v0", {WORDS: (mean(0.1, 100), mean(0.6, 100))}, under=lease, shown=[WORDS])
    versions.add_candidate(home.store, None, "v2", "v1", "hash-of-v2", None, [WORDS], None)
    versions.promote(home.store, "v2", "by hand")
    conclude(home.store, lease.subject, found)
    assert serving(home.store).name == "v2"
    assert latest(home, "watch").message == f"nothing follows from gate {found.gate} on v1: v2 serves now"


def test_nothing_is_lost_if_the_conclusion_is_interrupted(home: WatchedHome) -> None:
    lease = alarm(home, WORDS)
    before = row(home)

    class Cut(Exception):
        pass

    def cut() -> None:
        with home.store.write():
            confirm(home, lease, serving=0.1, former=0.6, shown=[WORDS])
            raise Cut

    with pytest.raises(Cut):
        cut()
    assert (serving(home.store).name, row(home)) == ("v1", before)
    confirm(home, lease, serving=0.1, former=0.6, shown=[WORDS])
    assert serving(home.store).name == "v0"
