"""Comparing arms at one gain, by what dev tasks show: the gain, the rate of each arm, the checkpoint of each run. Pure.

An arm that learns more forgets more, so drops are compared where all arms have gained the same (Shenfeld et al. 2025, 'RL's Razor',
compare at matched accuracy on the new task). The matched gain is the smallest over the arms of the best that their pilots gained. Where a
curve first passes it, the nearer of the two checkpoints is taken: the first one above it would give steep curves more gain, and so more
drop, than slow ones. At it an arm takes the rate of the lowest drop. A dev gain is noisy (its standard error is .06 with 128 tasks), so a
gain within `tolerance` of it, above or below, counts as the matched gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean


@dataclass(frozen=True, slots=True, kw_only=True)
class DevCheck:
    """A run after some updates, against the base, on dev tasks."""

    update: int
    gain: float
    """On the target."""
    drop: float | None
    """Mean over the other environments; None if it was not measured."""


ROUNDING = 1e-9
Curve = Sequence[DevCheck]
"""Of one run, by update."""
Pilots = Mapping[float, Sequence[Curve]]
"""The curves of an arm's pilots by learning rate, one a seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The checkpoint of a run."""

    checkpoint: DevCheck
    matched: bool
    """Whether its gain is the matched one, up to the tolerance."""


def mean_curve(curves: Sequence[Curve]) -> list[DevCheck]:
    """The mean over seeds at each update that all of them have."""
    by_update = [{one.update: one for one in curve} for curve in curves]
    shared = set.intersection(*map(set, by_update)) if by_update else set()
    found = []
    for update in sorted(shared):
        here = [one[update] for one in by_update]
        drops = [one.drop for one in here if one.drop is not None]
        found.append(DevCheck(update=update, gain=fmean(one.gain for one in here), drop=fmean(drops) if drops else None))
    return found


def best_gain(pilots: Pilots) -> float | None:
    """The best gain of an arm over its rates and checkpoints; None if no pilot got anywhere."""
    return max((one.gain for curves in pilots.values() for one in mean_curve(curves)), default=None)


def matched_gain(pilots: Mapping[str, Pilots], least: float) -> float | None:
    """The smallest over the arms of the pilots' best gain, without arms that gained less than `least`. None if none gained as much."""
    best = [gain for of_arm in pilots.values() if (gain := best_gain(of_arm)) is not None and gain >= least]
    return min(best, default=None)


def chosen_rate(pilots: Pilots, gain: float, tolerance: float) -> float | None:
    """The rate whose drop at the matched gain is lowest, the smallest of equals; if none has that gain, that of the nearest to it."""
    curves = {rate: curve for rate, of_rate in sorted(pilots.items()) if (curve := mean_curve(of_rate))}
    if not curves:
        return None
    at = {rate: chosen_checkpoint(curve, gain, tolerance) for rate, curve in curves.items()}
    matched = {rate: one.checkpoint for rate, one in at.items() if one.matched}
    if matched:
        drops = {rate: inf if one.drop is None else one.drop for rate, one in matched.items()}
        return min(matched, key=lambda rate: (drops[rate], rate))
    return min(at, key=lambda rate: (abs(at[rate].checkpoint.gain - gain), rate))


def chosen_checkpoint(curve: Curve, gain: float, tolerance: float) -> Chosen:
    """Of the two around the first place where the curve reaches the matched gain the nearer one, the later of equals; if it never does,
    that of the best gain, the earliest of equals. Raises `ValueError` without any."""
    before: DevCheck | None = None
    for one in curve:
        if one.gain >= gain:
            nearer = one if before is None or one.gain - gain <= gain - before.gain else before
            return Chosen(checkpoint=nearer, matched=is_matched(nearer.gain, gain, tolerance))
        before = one
    best = max(curve, key=lambda one: (one.gain, -one.update))
    return Chosen(checkpoint=best, matched=is_matched(best.gain, gain, tolerance))


def is_matched(found: float, gain: float, tolerance: float) -> bool:
    """Whether a gain is the matched one. Of an arm, this is asked of the mean over its runs: by chance alone some run misses it in most."""
    return abs(found - gain) <= tolerance + ROUNDING
