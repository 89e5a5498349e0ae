"""Comparing arms at one gain, by what dev tasks show: the gain, the rate of each arm, the checkpoint of each run. Pure.

An arm that learns more forgets more, so drops are compared where all arms have gained the same (Shenfeld et al. 2025, 'RL's Razor', compare
at matched accuracy on the new task). The matched gain is the smallest over the arms of the best that their pilots gained. At it an arm
takes the rate of the lowest drop, and a run the first checkpoint that reaches it. A dev gain is noisy (its standard error is .06 with 128
tasks), so `tolerance` below it counts as reached.
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


Curve = Sequence[DevCheck]
"""Of one run, by update."""
Pilots = Mapping[float, Sequence[Curve]]
"""The curves of an arm's pilots by learning rate, one a seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The checkpoint of a run."""

    checkpoint: DevCheck
    reached: bool
    """Whether it has the matched gain; if not, it is that of the best gain."""


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
    """The rate whose drop at the matched gain is lowest, the smallest of equals; if none reaches it, that of the best gain."""
    curves = {rate: curve for rate, of_rate in sorted(pilots.items()) if (curve := mean_curve(of_rate))}
    if not curves:
        return None
    at = {rate: chosen_checkpoint(curve, gain, tolerance) for rate, curve in curves.items()}
    reached = {rate: one.checkpoint for rate, one in at.items() if one.reached}
    if reached:
        drops = {rate: inf if one.drop is None else one.drop for rate, one in reached.items()}
        return min(reached, key=lambda rate: (drops[rate], rate))
    return max(at, key=lambda rate: at[rate].checkpoint.gain)


def chosen_checkpoint(curve: Curve, gain: float, tolerance: float) -> Chosen:
    """The first that reaches the matched gain; else that of the best gain, the earliest of equals. Raises `ValueError` without any."""
    for one in curve:
        if one.gain >= gain - tolerance:
            return Chosen(checkpoint=one, reached=True)
    return Chosen(checkpoint=max(curve, key=lambda one: (one.gain, -one.update)), reached=False)


def is_comparable(chosen: Sequence[DevCheck], gain: float, tolerance: float) -> bool:
    """Whether an arm has the matched gain: the mean over its runs, since by chance alone some run misses it in most arms."""
    return bool(chosen) and fmean(one.gain for one in chosen) >= gain - tolerance
