"""The matched gain, the rate of an arm and the checkpoint of a run, on curves worked out by hand."""

from __future__ import annotations

import pytest

from perdure.agent.studies.grid.matched_gain import (
    DevCheck,
    best_gain,
    chosen_checkpoint,
    chosen_rate,
    is_comparable,
    matched_gain,
    mean_curve,
)


def curve(*points: tuple[int, float, float | None]) -> list[DevCheck]:
    return [DevCheck(update=update, gain=gain, drop=drop) for update, gain, drop in points]


SLOW = curve((3, 0.05, 0.0), (6, 0.20, 0.02), (9, 0.30, 0.03))
FAST = curve((3, 0.30, 0.10), (6, 0.50, 0.20), (9, 0.45, 0.30))
FLAT = curve((3, 0.01, 0.0), (6, 0.02, 0.0), (9, 0.0, 0.0))


def test_seeds_are_averaged_at_the_updates_that_all_have() -> None:
    shorter = curve((3, 0.15, 0.04))
    assert mean_curve([SLOW, shorter]) == [DevCheck(update=3, gain=pytest.approx(0.10), drop=pytest.approx(0.02))]
    assert mean_curve([]) == []


def test_the_matched_gain_is_the_smallest_of_the_arms_best() -> None:
    pilots = {"a": {0.1: [SLOW], 0.2: [FAST]}, "b": {0.1: [SLOW]}, "flat": {0.1: [FLAT]}}
    assert [best_gain(pilots[arm]) for arm in pilots] == [0.50, 0.30, 0.02]
    assert matched_gain(pilots, 0.1) == 0.30
    assert matched_gain(pilots, 0.0) == 0.02
    assert matched_gain({"flat": {0.1: [FLAT]}}, 0.1) is None
    assert best_gain({0.1: []}) is None


def test_the_rate_is_that_of_the_lowest_drop_at_the_matched_gain() -> None:
    assert chosen_rate({0.1: [SLOW], 0.2: [FAST]}, 0.30, 0.0) == 0.1
    assert chosen_rate({0.1: [SLOW], 0.2: [FAST]}, 0.40, 0.0) == 0.2
    assert chosen_rate({0.1: [SLOW], 0.2: [FAST]}, 0.60, 0.0) == 0.2  # none reaches it: the best gain
    assert chosen_rate({0.1: [SLOW], 0.2: []}, 0.60, 0.0) == 0.1
    assert chosen_rate({0.1: []}, 0.3, 0.0) is None


def test_a_run_delivers_its_first_checkpoint_at_the_matched_gain() -> None:
    assert chosen_checkpoint(SLOW, 0.20, 0.0).checkpoint.update == 6
    assert chosen_checkpoint(SLOW, 0.24, 0.05).checkpoint.update == 6
    missed = chosen_checkpoint(FAST, 0.90, 0.05)
    assert (missed.checkpoint.update, missed.reached) == (6, False)
    with pytest.raises(ValueError, match="max"):
        chosen_checkpoint([], 0.1, 0.0)


def test_an_arm_is_comparable_if_its_runs_have_the_gain_in_the_mean() -> None:
    assert is_comparable([SLOW[1], SLOW[2]], 0.30, 0.05)
    assert not is_comparable([SLOW[0], SLOW[2]], 0.30, 0.05)
    assert not is_comparable([], 0.30, 0.05)
