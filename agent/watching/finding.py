"""What is expected of live play, and what a confirming gate shows after an alarm. Pure.

A confirming gate plays the version before against the serving one, on fresh held-out tasks of the environment whose live scores fell (or
rose). Since a version never changes, there are three findings: the serving version is worse than the one before (`lost`), it and the one
before score elsewhere than they did (`changed`: that is the environment), or neither was shown (`nothing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from perdure.learners.gate.intervals import mean_interval
from perdure.learners.gate.scope import GateSettings

SLACK = 0.05
"""Live scores may lie this far outside of the interval of the gate's scores."""

CONFIRMING_ROUNDS = 96
"""Of a confirming gate at most: a loss of .2 is shown in some 45 pairs if three in ten of them differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideScores:
    """Scores of one version in one environment."""

    known: Sequence[float]
    """In gates before."""
    fresh: Sequence[float]
    """In the confirming gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a confirming gate shows of one environment."""

    kind: Literal["lost", "changed", "nothing"]
    why: str


def expected_range(scores: Sequence[float]) -> tuple[float, float]:
    """The mean scores that live play may have: the 95 % interval of the gates' scores, valid whenever a gate stopped, and `SLACK`."""
    low, high = interval(scores)
    return max(0.0, low - SLACK), min(1.0, high + SLACK)


def interval(scores: Sequence[float]) -> tuple[float, float]:
    return mean_interval([(score,) for score in scores], low=0.0, high=1.0)


def confirming_settings(settings: GateSettings) -> GateSettings:
    """Those of a confirming gate. It asks for no retention, so only its length and alpha matter."""
    return replace(settings, nmax=min(settings.nmax, CONFIRMING_ROUNDS))


def judge(*, loss_shown: bool, serving: SideScores, former: SideScores) -> Finding:
    """What follows for one environment; `loss_shown`: the gate has shown that the former version scores more there than the serving one.

    A loss counts only if the serving version also scores less than it did: if it does not, the gate that promoted it knew of the loss.
    `changed` needs two intervals of the serving version's scores, then and now, that do not touch. The mean of the former version must have
    moved the same way, out of its own interval, unless it had no room to move, or no gate has scored it.
    """
    if not serving.fresh or not former.fresh or not serving.known:
        return Finding(kind="nothing", why="no scores came of the confirming gate: the environment failed")
    now, then = fmean(serving.fresh), fmean(serving.known)
    sides = f"the serving version scores {now:.2f} on {len(serving.fresh)} fresh tasks, {then:.2f} before; {_former(former)}"
    if loss_shown and now < then:
        return Finding(kind="lost", why=sides)
    low, high = interval(serving.fresh)
    known_low, known_high = interval(serving.known)
    if (high < known_low and _moved(former, down=True)) or (low > known_high and _moved(former, down=False)):
        return Finding(kind="changed", why=sides)
    return Finding(kind="nothing", why=sides)


def _moved(side: SideScores, *, down: bool) -> bool:
    """Whether a version's scores moved this way, or could not show it."""
    if not side.known:
        return True
    low, high = interval(side.known)
    if down:
        return low < SLACK or fmean(side.fresh) < low
    return high > 1 - SLACK or fmean(side.fresh) > high


def _former(side: SideScores) -> str:
    then = f"{fmean(side.known):.2f} before" if side.known else "no gate scored it before"
    return f"the version before scores {fmean(side.fresh):.2f}, {then}"
