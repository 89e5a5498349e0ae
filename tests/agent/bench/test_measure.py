"""What the benchmarks share."""

from __future__ import annotations

import time

from perdure.agent.bench.measure import CaseProgress, TimeLeft, in_turn, median_ratio, timed


def test_both_sides_run_once_and_the_peer_is_first_in_odd_runs() -> None:
    order: list[str] = []

    def side(name: str) -> str:
        order.append(name)
        return name

    for run in range(3):
        (ours, our_s), (peer, peer_s) = in_turn(lambda: side("ours"), lambda: side("peer"), run)
        assert (ours, peer) == ("ours", "peer")
        assert min(our_s, peer_s) >= 0
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]


def test_the_ratio_is_the_median_of_the_runs_and_not_of_the_sides() -> None:
    assert median_ratio([(1.0, 2.0), (9.0, 3.0), (4.0, 4.0)]) == 1.0


def test_a_call_is_timed_with_its_result() -> None:
    result, seconds = timed(lambda: sum(range(10**5)))
    assert result == sum(range(10**5))
    assert 0 < seconds < 10


def test_the_time_left_is_that_of_the_rest_at_the_pace_so_far() -> None:
    plan = TimeLeft(total=10.0)
    assert plan.left() == "time left not yet known"
    plan = TimeLeft(total=10.0, done=4.0, _started=time.monotonic() - 160)
    assert plan.left() == "about 4 min left"
    plan.done = 9.0
    assert plan.left() == "about 20 s left"
    plan.done = 10.5
    assert plan.left() == "about 0 s left"


def test_a_case_says_how_many_of_its_runs_are_made() -> None:
    lines: list[str] = []
    plan = TimeLeft(total=4.0, _started=time.monotonic() - 100)
    CaseProgress("equal work", 2, plan, lines.append).made(1)
    assert lines == ["equal work: 1 of 3 runs, about 5 min left"]
