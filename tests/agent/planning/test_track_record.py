"""What jobs have brought so far, and what they cost: all numbers worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.agent.planning.lives import ADD, SORT, SPELL, gated, learned, leg, life, verdict
from tests.results import learn_result

from perdure.agent.planning.track_record import TrackRecord, relative_costs, track_records
from perdure.memory.contracts.orders import Job
from perdure.memory.contracts.results import Leg


def refused(number: int, *targets: str) -> Job:
    return learned(number, targets or (ADD,), verdict("reject", f"v{number}", gain="failed"))


def promoted(number: int, *targets: str, trained: dict[str, Leg] | None = None) -> Job:
    return learned(number, targets or (ADD,), verdict("promote", f"v{number}", trained=trained))


@pytest.mark.parametrize(
    ("jobs", "a", "b"),
    [
        ([refused(1)], 0, 1),
        ([refused(2), refused(1)], 0, 1.8),  # 1 x .8 + 1
        ([refused(n) for n in (5, 4, 3, 2, 1)], 0, 3.3616),  # 1 + .8 + .64 + .512 + .4096
        ([promoted(1)], 1, 0),
        ([refused(2), promoted(1)], 0.8, 1),
        ([promoted(3), refused(2), refused(1)], 1, 1.44),  # 1.8 x .8
        ([learned(1, [ADD], None)], 0, 1),
        ([refused(3), promoted(2, SORT), refused(1)], 0, 1.8),
    ],
    ids=["one", "two", "five", "promotion", "after it", "before it", "failed", "a promotion of another one forgets nothing"],
)
def test_promotions_and_refusals_fade_with_each_job(jobs: list[Job], a: float, b: float) -> None:
    record = track_records(life(*jobs))[ADD]
    assert (record.promotions, record.refusals) == (pytest.approx(a), pytest.approx(b))


def test_jobs_that_are_not_over_or_had_no_gate_count_nothing() -> None:
    running = replace(learned(2, [ADD], None), state="running")
    not_gated = replace(learned(1, [ADD], None), state="done", result=learn_result(None, version="v1"), candidate="v1")
    assert track_records(life(running, not_gated)) == {}


def test_the_last_verdict_on_a_candidate_counts_and_counts_once() -> None:
    unclear = verdict("inconclusive", "v1", sort=leg(-0.04, 192, "not shown"))
    jobs = [gated(2, [ADD], verdict("promote", "v1"), follows=1), learned(1, [ADD], unclear)]
    assert track_records(life(*jobs))[ADD] == TrackRecord(promotions=1.0, refusals=0.0)


def test_a_promotion_counts_for_the_targets_whose_gain_was_shown() -> None:
    trained = {ADD: leg(0.3, 20, "passed"), SORT: leg(0.0, 20, "not shown")}
    records = track_records(life(promoted(1, ADD, SORT, trained=trained)))
    assert records == {ADD: TrackRecord(promotions=1.0)}
    both = track_records(life(promoted(1, ADD, SORT, trained={ADD: leg(0.1, 20, "not shown"), SORT: leg(0.1, 20, "not shown")})))
    assert both[ADD] == both[SORT] == TrackRecord(promotions=1.0)


def test_a_promotion_that_was_rolled_back_is_a_refusal() -> None:
    assert track_records(replace(life(promoted(1)), rolled_back=frozenset({"v1"}))) == {ADD: TrackRecord(refusals=1.0)}


def test_a_verdict_with_the_gain_shown_is_half_a_refusal() -> None:
    fell = [learned(n, [ADD], verdict("reject", f"v{n}", sort=leg(-0.4, 10, "failed"))) for n in (2, 1)]
    assert track_records(life(*fell))[ADD].refusals == pytest.approx(0.9)  # .5 x .8 + .5


def test_a_repair_that_is_refused_counts_for_the_old_target_only() -> None:
    first = learned(1, [ADD], verdict("reject", "v1", gain="not shown", sort=leg(-0.4, 10, "failed")))
    repair = learned(2, [ADD, SORT], verdict("reject", "v2", gain="failed"), aim="repair", follows=1)
    assert track_records(life(repair, first)) == {ADD: TrackRecord(refusals=1.8)}
    by_itself = learned(1, [ADD, SORT], verdict("reject", "v1", gain="failed"), aim="repair")
    assert track_records(life(by_itself)) == {ADD: TrackRecord(refusals=1.0), SORT: TrackRecord(refusals=1.0)}


def test_refusals_fade_while_nothing_is_learned() -> None:
    jobs = [refused(n) for n in (5, 4, 3, 2, 1)]
    assert track_records(life(*jobs))[ADD].set_aside
    assert track_records(life(*jobs, fruitless=1))[ADD].refusals == pytest.approx(3.2608, abs=5e-5)  # x .97
    assert track_records(life(*jobs, fruitless=1))[ADD].set_aside
    assert not track_records(life(*jobs, fruitless=2))[ADD].set_aside  # 3.16


@pytest.mark.parametrize(
    ("record", "hope", "aside"),
    [
        (TrackRecord(), 0.25, False),  # (1 / 2)^2
        (TrackRecord(promotions=1.0), 4 / 9, False),
        (TrackRecord(refusals=2.0), 1 / 16, False),
        (TrackRecord(refusals=3.2), 0.0370, True),
        (TrackRecord(promotions=0.3, refusals=4.0), 0.0426, True),
        (TrackRecord(promotions=0.31, refusals=4.0), 0.0431, False),
    ],
)
def test_hope_is_the_square_of_the_rule_of_succession(record: TrackRecord, hope: float, aside: bool) -> None:
    assert record.hope == pytest.approx(hope, abs=5e-5)
    assert record.set_aside is aside


def test_an_environment_that_was_promoted_is_set_aside_after_six_refusals() -> None:
    """.8^5 = .33 and .8^6 = .26 of the promotion are left."""
    jobs = [promoted(1)]
    for n in range(2, 8):
        assert not track_records(life(*jobs))[ADD].set_aside
        jobs.insert(0, refused(n))
    assert track_records(life(*jobs))[ADD].set_aside


def test_costs_are_relative_to_the_median_and_limited() -> None:
    def job(number: int, seconds: float, *targets: str) -> Job:
        return learned(number, targets, verdict("reject", f"v{number}"), seconds=seconds)

    assert relative_costs(life()) == {}
    assert relative_costs(life(job(3, 40.0, SPELL), job(2, 20.0, SORT), job(1, 10.0, ADD))) == {SPELL: 2.0, SORT: 1.0, ADD: 0.5}
    assert relative_costs(life(job(4, 30.0, ADD), job(3, 900.0, SPELL), job(2, 20.0, SORT), job(1, 10.0, ADD)))[SPELL] == 4.0
    assert relative_costs(life(job(2, 20.0, ADD, SORT), job(1, 10.0, SPELL))) == {ADD: 1.0, SORT: 1.0, SPELL: 1.0}
    assert relative_costs(life(job(1, 0.0, ADD))) == {ADD: 1.0}
