"""The e-detector: false alarms are as rare as stated, whatever the scores look like, and falls are found soon."""

from __future__ import annotations

from math import sqrt
from random import Random
from statistics import median

import pytest

from perdure.agent.watching.detector_rates import KINDS, alarms, delay, delays, equal, false_alarms, independent
from perdure.agent.watching.e_detector import RUN_LENGTH, Detector

TASKS = 30_000


def test_false_alarms_at_the_edge_are_no_more_often_than_stated() -> None:
    assert [row for row in false_alarms(TASKS) if not row.ok] == []


def test_a_mean_that_moves_above_what_is_expected_gives_no_more_alarms() -> None:
    """The level is conditional: nothing is assumed of how the mean moves, as long as it is not below."""
    rng = Random(5)
    ups = iter(range(TASKS))
    found = alarms(Detector(expected=0.5), lambda: equal(0.5 + 0.3 * (next(ups) % 200 < 20), rng), TASKS)
    assert found <= TASKS / RUN_LENGTH + 3 * sqrt(TASKS / RUN_LENGTH)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fall_is_found_soon_and_a_larger_one_sooner(kind: str) -> None:
    rng = Random(kind)

    def typical(fall: float) -> float:
        return median(delay(Detector(expected=0.7), lambda: KINDS[kind](0.7 - fall, rng), 2000) for _ in range(40))

    small, large, whole = typical(0.1), typical(0.3), typical(0.69)
    assert whole < large < small < RUN_LENGTH
    assert whole <= 12
    assert large <= 70


def test_a_fall_after_a_long_good_time_is_found_as_soon() -> None:
    """Evidence does not sink below 1, so good times store nothing up against an alarm."""
    rng = Random(3)
    detector = Detector(expected=0.7)
    for _ in range(500):
        detector = detector.after(independent(0.85, rng))
        assert not detector.alarmed
    assert delay(detector, lambda: independent(0.4, rng), 100) <= 40


def test_what_the_gate_saw_is_enough_to_notice_that_nothing_works_any_more() -> None:
    found = delays("correlated", 0.8, 0.8, pairs=24, runs=40)
    assert (found.noticed, found.nine_in_ten <= 15) == (1.0, True)
    none = delays("correlated", 0.8, 0.0, pairs=24, runs=40, most=400)
    assert none.noticed <= 0.1


def test_what_cannot_fall_gives_no_alarm() -> None:
    detector = Detector(expected=0.0)
    for _ in range(2 * RUN_LENGTH):
        detector = detector.after(0.0)
    assert not detector.alarmed
    assert Detector(expected=1.0).after(0.0).stake() > 0


def test_evidence_is_that_of_the_formula() -> None:
    first = Detector(expected=0.6).after(0.0)
    stake = 0.15 / (0.15**2 + 0.0625)
    assert first.evidence == pytest.approx(1 + stake * 0.6)
    assert first.mean == 0.0
    second = first.after(1.0)
    variance = (10 * 0.0625 + 0.0) / 11
    stake = min(0.15 / (0.15**2 + variance), 0.8 / 0.4)
    assert second.evidence == pytest.approx((1 - stake * 0.4) * (first.evidence + 1))


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_what_is_no_score_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match=r"is not in \[0, 1\]"):
        Detector(expected=0.5).after(score)
