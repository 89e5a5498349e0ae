"""The matched gain, the rate of an arm and the checkpoint of a run, on curves worked out by hand."""

from __future__ import annotations

import pytest

from perdure.agent.studies.grid.matched_gain import (
    Chosen,
    DevCheck,
    best_gain,
    chosen_checkpoint,
    chosen_rate,
    is_matched,
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
    assert chosen_rate({0.1: [SLOW], 0.2: [FAST]}, 0.60, 0.0) == 0.2  # none reaches it: the nearest
    assert chosen_rate({0.1: [SLOW], 0.2: [FAST]}, 0.10, 0.05) == 0.1  # one jumps over it
    assert chosen_rate({0.1: [curve((3, 0.90, 0.0))], 0.2: [FAST]}, 0.10, 0.05) == 0.2  # both do: the nearer
    assert chosen_rate({0.1: [SLOW], 0.2: []}, 0.60, 0.0) == 0.1
    assert chosen_rate({0.1: []}, 0.3, 0.0) is None


def test_a_run_delivers_the_checkpoint_nearest_to_where_it_passes_the_matched_gain() -> None:
    assert chosen_checkpoint(SLOW, 0.20, 0.0).checkpoint.update == 6
    assert chosen_checkpoint(SLOW, 0.24, 0.05).checkpoint.update == 6
    assert chosen_checkpoint(SLOW, 0.26, 0.05).checkpoint.update == 9
    assert chosen_checkpoint(SLOW, 0.32, 0.05) == Chosen(checkpoint=SLOW[2], matched=True)  # less by no more than the tolerance
    missed = chosen_checkpoint(FAST, 0.90, 0.05)
    assert (missed.checkpoint.update, missed.matched) == (6, False)
    with pytest.raises(ValueError, match="max"):
        chosen_checkpoint([], 0.1, 0.0)


def test_a_curve_that_jumps_over_the_matched_gain_has_not_matched_it() -> None:
    """.05, then .50: neither is .15, on either side."""
    steep = curve((2, 0.05, 0.0), (4, 0.50, 0.2))
    assert chosen_checkpoint(steep, 0.15, 0.05) == Chosen(checkpoint=steep[0], matched=False)
    assert chosen_checkpoint(steep, 0.40, 0.05) == Chosen(checkpoint=steep[1], matched=False)
    assert not chosen_checkpoint(steep[1:], 0.15, 0.05).matched


def test_a_gain_is_matched_within_the_tolerance_on_both_sides() -> None:
    assert is_matched(0.25, 0.30, 0.05)
    assert is_matched(0.35, 0.30, 0.05)
    assert not is_matched(0.24, 0.30, 0.05)
    assert not is_matched(0.36, 0.30, 0.05)
