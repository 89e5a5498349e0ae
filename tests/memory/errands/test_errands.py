"""Errands: each is played by one player at a time, scored once, and only as long as its job is at the attempt that wants it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.memory.conftest import ADD, SORT, Player, SetClock

from perdure.memory import jobs
from perdure.memory.contracts.orders import GateOrder
from perdure.memory.errands.errand_leases import (
    ErrandsNow,
    end_errands,
    errands_now,
    keep_errands_of,
    last_asked_s,
    lease_errands,
    note_judge,
    release_errands,
    renew_errands,
    requeue_errands_of,
)
from perdure.memory.errands.errand_queue import (
    BatchProgress,
    abandon_earlier,
    batch_progress,
    call_back,
    queue_errands,
    scores_of_batch,
    take_back,
)
from perdure.memory.errands.errand_records import Errand, ErrandTerms, errand_document, read_errand
from perdure.memory.errors import Conflict, InputError, LeaseLost, RuntimeFailure
from perdure.memory.json_value import to_json
from perdure.memory.records import Lease, VersionRef
from perdure.memory.store import Store
from perdure.memory.trajectories.journal import StoreJournal

TERMS = ErrandTerms(version="v0", serving="v0", purpose="gate", temperature=1.0, samples=2)
DRAWS = [(ADD, 2**31 + n) for n in range(6)] + [(SORT, 2**31 + n) for n in range(6)]
TTL_S = 10.0


def begin(store: Store, clock: SetClock, key: str = "gate") -> Lease:
    """A job at work; the next attempt at it if it was begun before."""
    number = jobs.add_job(store, key, [ADD], GateOrder(candidate="v0"))
    leased = jobs.lease_job(store, f"{key}:1", 600.0, clock, number)
    assert leased is not None
    abandon_earlier(store, leased[1])
    return leased[1]


@pytest.fixture
def job(store: Store, clock: SetClock) -> Lease:
    return begin(store, clock)


Take = Callable[..., list[Errand]]


@pytest.fixture
def take(store: Store, clock: SetClock) -> Take:
    def take(owner: str = "player-1", limit: int = 100) -> list[Errand]:
        return lease_errands(store, owner, limit, TTL_S, clock)

    return take


def test_what_a_batch_scored_comes_back_in_the_order_of_its_draws(store: Store, job: Lease, take: Take) -> None:
    batch = queue_errands(store, job, TERMS, DRAWS)
    assert batch_progress(store, job, batch) == BatchProgress(waiting=12, spoilt=0, away=0, done=0)
    found = take()
    assert [(one.environment, one.seed) for one in found] == DRAWS
    assert {(one.terms, one.job) for one in found} == {(TERMS, job)}
    with pytest.raises(RuntimeFailure, match="its batch is not complete"):
        scores_of_batch(store, job, batch)
    for one in reversed(found):
        end_errands(store, [(one.lease, (one.n / 16, None))])
    assert batch_progress(store, job, batch).complete
    assert scores_of_batch(store, job, batch) == [(n / 16, None) for n in range(12)]


def test_an_errand_is_held_by_one_player_and_the_oldest_go_first(store: Store, clock: SetClock, job: Lease, take: Take) -> None:
    other = begin(store, clock, "another")
    queue_errands(store, job, TERMS, DRAWS[:3])
    queue_errands(store, job, replace(TERMS, version="v0", samples=1), DRAWS[3:5])
    queue_errands(store, other, TERMS, DRAWS[5:])
    taken = [take(f"player-{n}", 100) for n in range(3)]
    taken += [take(f"player-{n}", 100) for n in range(3)]
    assert [errand.id for errands in taken for errand in errands] == list(range(1, 13))
    assert all(len({(one.job, one.batch) for one in errands}) == 1 for errands in taken if errands), "one version answers all"
    assert take("player-9") == []
    assert errands_now(store, clock).at.keys() == {"player-0", "player-1", "player-2"}


def test_players_get_equal_shares_of_a_batch(store: Store, clock: SetClock, job: Lease, take: Take) -> None:
    for n in range(4):
        note_judge(store, f"player-{n}", clock)
    queue_errands(store, job, TERMS, DRAWS)
    assert [len(take(f"player-{n}")) for n in range(5)] == [3, 3, 3, 3, 0]
    queue_errands(store, job, TERMS, DRAWS)
    assert len(take("player-0", limit=2)) == 2, "no more than it can play at once"
    clock.now += 60.0
    assert len(take("player-0")) == 12, "the others have not asked for a minute, and what they held has lapsed"


def test_the_same_scores_twice_are_fine_and_others_are_refused(store: Store, job: Lease, take: Take) -> None:
    batch = queue_errands(store, job, TERMS, DRAWS[:2])
    first, second = take()
    for _ in range(3):
        end_errands(store, [(first.lease, (0.5, 1.0))])
    with pytest.raises(Conflict, match=r"was ended with the scores .* others are refused"):
        end_errands(store, [(second.lease, (1.0, 1.0)), (first.lease, (0.5, 0.0))])
    assert batch_progress(store, job, batch) == BatchProgress(waiting=0, spoilt=0, away=1, done=1), "all of it, or nothing"


@pytest.mark.parametrize(
    ("scores", "says"), [((1.0,), "wants 2 answers, and 1 were scored"), ((1.0, 1.5), "must be in"), ((float("nan"), 0.0), "must be in")]
)
def test_what_is_no_score_of_it_is_refused(store: Store, job: Lease, take: Take, scores: tuple[float, ...], says: str) -> None:
    batch = queue_errands(store, job, TERMS, DRAWS[:1])
    (errand,) = take()
    with pytest.raises(InputError, match=says):
        end_errands(store, [(errand.lease, scores)])
    assert batch_progress(store, job, batch).done == 0


def test_a_player_that_falls_silent_loses_its_errands_and_what_it_says_later_is_refused(
    store: Store, clock: SetClock, job: Lease, take: Take, player: Player
) -> None:
    batch = queue_errands(store, job, TERMS, DRAWS[:2])
    silent = take("silent")
    journal = StoreJournal(store, clock, errands=[one.lease for one in silent])
    (episode,) = journal.start([player.plan(job, silent[0].group, purpose="gate")])
    clock.now += TTL_S / 2
    renew_errands(store, [one.lease for one in silent], TTL_S, clock)
    clock.now += TTL_S - 1
    assert take("other") == [], "it was renewed"
    clock.now += 2
    taken = take("other") + take("other")
    assert [one.id for one in taken] == [one.id for one in silent]
    assert {one.group for one in taken}.isdisjoint(one.group for one in silent)
    assert store.rows("SELECT state FROM episode WHERE id = ?", (episode,))[0]["state"] == "aborted"
    for late in (
        lambda: journal.start([player.plan(job, silent[1].group, purpose="gate")]),
        lambda: journal.finish([player.ending(episode)]),
        lambda: renew_errands(store, [silent[0].lease], TTL_S, clock),
        lambda: end_errands(store, [(silent[0].lease, (1.0, 1.0))]),
    ):
        with pytest.raises(LeaseLost, match="silent lost its lease"):
            late()
    end_errands(store, [(one.lease, (0.0, 0.0)) for one in taken])
    assert scores_of_batch(store, job, batch) == [(0.0, 0.0)] * 2


def test_all_errands_of_a_player_are_kept_or_given_back_at_once(store: Store, clock: SetClock, job: Lease, take: Take) -> None:
    queue_errands(store, job, TERMS, DRAWS)
    held = take(limit=3)
    for _ in range(4):
        clock.now += TTL_S - 1
        keep_errands_of(store, "player-1", TTL_S, clock)
    assert errands_now(store, clock) == ErrandsNow(waiting=9, at={"player-1": 3}, judges=1)
    assert requeue_errands_of(store, "player-1", "it was silent") == 3
    with pytest.raises(LeaseLost):
        end_errands(store, [(held[0].lease, (1.0, 1.0))])
    assert {tuple(row) for row in store.rows("SELECT state, spent, error FROM errand WHERE attempt > 0")} == {
        ("queued", 1, "it was silent")
    }


def test_the_journal_keeps_the_errands_of_a_player_that_plays(
    store: Store, clock: SetClock, job: Lease, take: Take, player: Player
) -> None:
    queue_errands(store, job, TERMS, DRAWS[:1])
    (errand,) = take()
    journal = StoreJournal(store, clock, errands=[errand.lease])
    (episode,) = journal.start([player.plan(job, errand.group, purpose="gate", sampler=VersionRef("v0"))])
    for n in range(4):
        clock.now += TTL_S - 1
        journal.turns([(episode, n, player.turn())])
    journal.finish([player.ending(episode)])
    assert take("other") == []
    end_errands(store, [(errand.lease, (1.0, 1.0))])


def test_an_errand_that_ends_badly_three_times_is_left_to_the_job(store: Store, clock: SetClock, job: Lease, take: Take) -> None:
    batch = queue_errands(store, job, TERMS, DRAWS[:2])
    release_errands(store, [one.lease for one in take()], None)
    for n in range(3):
        held = take()
        assert len(held) == 2, "an orderly stop does not count"
        release_errands(store, [held[0].lease], f"no such file, for the {n}th time")
        release_errands(store, [held[1].lease], None)
    assert batch_progress(store, job, batch) == BatchProgress(waiting=1, spoilt=1, away=0, done=0)
    assert [one.n for one in take()] == [1]
    (own,) = take_back(store, job, batch, 9, clock, only_spoilt=True)
    assert (own.n, own.lease.owner) == (0, job.owner)
    clock.now += 300.0
    jobs.renew_job(store, job, 600.0, clock)
    assert [one.n for one in take("other")] == [1], "the job's own errand does not lapse while it lives"
    end_errands(store, [(own.lease, (1.0, 1.0))])


def test_errands_that_do_not_end_are_called_back(store: Store, clock: SetClock, job: Lease, take: Take) -> None:
    batch = queue_errands(store, job, TERMS, DRAWS[:3])
    held = take()
    end_errands(store, [(held[0].lease, (1.0, 1.0))])
    assert call_back(store, job, batch, "nothing came for 600 s") == 2
    assert take("other") == []
    assert [one.n for one in take_back(store, job, batch, 9, clock, only_spoilt=True)] == [1, 2]
    with pytest.raises(LeaseLost):
        end_errands(store, [(held[1].lease, (1.0, 1.0))])


def test_errands_of_an_earlier_attempt_are_abandoned(store: Store, clock: SetClock, job: Lease, take: Take) -> None:
    queue_errands(store, job, TERMS, DRAWS)
    held = take(limit=3)
    jobs.retry_job(store, job, "it died")
    assert take() == [], "nobody wants them at the moment"
    with pytest.raises(LeaseLost, match="its job has ended or began anew"):
        renew_errands(store, [held[0].lease], TTL_S, clock)
    again = begin(store, clock)
    assert again.attempt == 2
    with pytest.raises(LeaseLost):
        end_errands(store, [(held[0].lease, (1.0, 1.0))])
    assert take() == []
    assert errands_now(store, clock) == ErrandsNow(waiting=0, at={}, judges=1)
    for stale in (
        lambda: queue_errands(store, job, TERMS, DRAWS),
        lambda: take_back(store, job, 1, 9, clock, only_spoilt=False),
        lambda: abandon_earlier(store, job),
        lambda: call_back(store, job, 1, "?"),
    ):
        with pytest.raises(LeaseLost):
            stale()
    assert queue_errands(store, again, TERMS, DRAWS[:1]) == 1
    assert len(take()) == 1


def test_no_errand_of_a_job_whose_process_is_gone_is_handed_out(store: Store, clock: SetClock, job: Lease, take: Take) -> None:
    queue_errands(store, job, TERMS, DRAWS)
    clock.now += 601.0
    assert take() == []
    jobs.renew_job(store, job, 600.0, clock)
    assert take() != []


def test_errands_of_jobs_that_have_ended_are_forgotten(store: Store, clock: SetClock, job: Lease) -> None:
    queue_errands(store, job, TERMS, DRAWS)
    jobs.fail_job(store, job, "as it happens")
    assert errands_now(store, clock).waiting == 0
    begin(store, clock, "the next")
    assert store.rows("SELECT count(*) FROM errand")[0][0] == 0


def test_who_asks_is_known_while_a_job_works(store: Store, clock: SetClock, take: Take) -> None:
    assert take() == []
    assert last_asked_s(store, clock) is None, "an idle cluster writes nothing"
    job = begin(store, clock)
    assert take() == []
    asked = last_asked_s(store, clock)
    assert asked == clock.now
    clock.now += 1.0
    take()
    assert last_asked_s(store, clock) == asked, "not at every question"
    clock.now += 9.0
    take()
    assert last_asked_s(store, clock) == clock.now
    queue_errands(store, job, TERMS, DRAWS)
    take("player-2", 4)
    assert errands_now(store, clock) == ErrandsNow(waiting=8, at={"player-2": 4}, judges=2)
    clock.now += 7200.0
    take("player-3")
    assert store.rows("SELECT count(*) FROM judge")[0][0] == 1


def test_an_errand_crosses_machines_as_json(store: Store, job: Lease, take: Take) -> None:
    import json

    queue_errands(store, job, TERMS, DRAWS)
    (errand,) = take(limit=1)
    document = json.loads(to_json(errand_document(errand)))
    assert read_errand(document) == errand
    del document["seed"]
    with pytest.raises(InputError, match="head and player must run the same version"):
        read_errand(document)
