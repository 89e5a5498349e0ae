"""The arms of the study: their conditions, and the numbers that they gave in the authors' program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from perdure.agent.studies.mode_seeking.exact_fit import ExactFit, Target
from perdure.agent.studies.mode_seeking.mixture import Shape
from perdure.agent.studies.mode_seeking.sampled_fit import SLOW_FACTOR, Direction, SampledFit

Part = Literal["as published", "farther modes", "slow factor", "rates", "baseline", "replay", "one exact rate"]
PARTS: Mapping[Part, str] = {
    "as published": "the paper's settings",
    "farther modes": "the new mode farther away, 200 updates",
    "slow factor": "how slowly the old component and the weight learn, against the new component",
    "rates": "learning rates, with the paper's slow factor",
    "baseline": "the mean reward subtracted, as the authors' docstring has it and their code does not",
    "replay": "a share of old samples, which the paper lacks",
    "one exact rate": "our own check: exact gradients, one rate of .02 for all parameters",
}
"""Each with what it is."""
LONG = 2000
"""Updates of a fit that goes on after it has gained."""
Rated = tuple[Direction, float]
FORWARD: Rated = ("forward", 0.15)
SLOW_FORWARD: Rated = ("forward", 0.01)
REVERSE: Rated = ("reverse", 0.01)
"""The directions with the rates of the paper."""
SLOW_FACTORS = (SLOW_FACTOR, 0.05, 0.2, 1.0)
REPLAY_SHARES = (0.2, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedNumbers:
    """What the authors' program gives, seed by seed from 0 (with exact gradients one number); empty if it is not known.

    Run at commit 1228541 with numpy's legacy generator. The paper prints drops of .12 and .03 (bi-modal), .64 and .70 (uni-modal). Those of
    the part with one exact rate are from a program of our own, written before this one.
    """

    update: tuple[int, ...] = ()
    drop: tuple[float, ...] = ()
    end_gain: tuple[float, ...] = ()
    end_drop: tuple[float, ...] = ()


NOTHING_LISTED = ListedNumbers()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeSeekingArm:
    """One set of conditions."""

    name: str
    part: Part
    fit: SampledFit | ExactFit
    listed: ListedNumbers = NOTHING_LISTED
    in_small: bool = False


def bi_modal_name(rated: Rated, slow_factor: float = SLOW_FACTOR, replay: float = 0.0, *, baseline: bool = False) -> str:
    """Of an arm that goes on after it has gained."""
    name = f"bi-modal {rated[0]}, rate {rated[1]:g}, slow factor {slow_factor:g}"
    return name + (f", replay {replay:g}" if replay else "") + (", baseline" if baseline else "")


def published_name(shape: Shape, rated: Rated) -> str:
    """Of an arm in the paper's settings."""
    return f"{shape} {rated[0]}, rate {rated[1]:g}, as published"


def farther_name(rated: Rated, new_mean: float) -> str:
    """Of an arm with the new mode elsewhere."""
    return f"bi-modal {rated[0]}, new mode at {new_mean:g}"


def exact_name(direction: Direction, target: Target) -> str:
    """Of an arm with exact gradients."""
    return f"exact {direction}, to {target}"


UNI_FORWARD: Rated = ("forward", 0.05)
UNI_REVERSE: Rated = ("reverse", 0.005)
_PUBLISHED: tuple[tuple[Shape, Rated, int, int, ListedNumbers], ...] = (
    ("bi-modal", FORWARD, 200, 0, ListedNumbers(update=(82, 86, 81), drop=(0.124, 0.129, 0.122))),
    ("bi-modal", SLOW_FORWARD, 200, 200_000, ListedNumbers(end_gain=(0.435,), end_drop=(0.021,))),
    ("bi-modal", REVERSE, 200, 400_000, ListedNumbers(update=(123, 125, 119), drop=(0.027, 0.031, 0.036))),
    ("uni-modal", UNI_FORWARD, 1000, 0, ListedNumbers(update=(441, 444, 441), drop=(0.639, 0.640, 0.639))),
    ("uni-modal", UNI_REVERSE, 1000, 1_000_000, ListedNumbers(update=(289, 300, 290), drop=(0.697, 0.688, 0.700))),
)
"""Shape, direction and rate, updates, and how many numbers of the seed's stream went to the fits before it."""
_FARTHER: Mapping[float, tuple[float, float]] = {4.5: (0.290, 0.060), 5.5: (0.289, 0.089), 6.5: (0.289, 0.801)}
"""The drops at the end, forward and reverse, by the mean of the new mode."""
_SLOW_FACTOR: Mapping[tuple[Rated, float], ListedNumbers] = {
    (FORWARD, 0.005): ListedNumbers(drop=(0.124,), end_drop=(0.801,)),
    (SLOW_FORWARD, 0.005): ListedNumbers(drop=(0.054,), update=(525,)),
    (REVERSE, 0.005): ListedNumbers(drop=(0.048,), end_drop=(0.527,)),
    (FORWARD, 0.05): ListedNumbers(drop=(0.711,), end_drop=(0.801,)),
    (SLOW_FORWARD, 0.05): ListedNumbers(drop=(0.316,)),
    (REVERSE, 0.05): ListedNumbers(drop=(0.261,), end_drop=(0.801,)),
    (FORWARD, 0.2): ListedNumbers(drop=(0.801,), end_drop=(0.801,)),
    (SLOW_FORWARD, 0.2): ListedNumbers(drop=(0.626,)),
    (REVERSE, 0.2): ListedNumbers(drop=(0.801,), end_drop=(0.801,)),
    (FORWARD, 1.0): ListedNumbers(drop=(0.801,), end_drop=(0.801,)),
    (SLOW_FORWARD, 1.0): ListedNumbers(drop=(0.801,)),
    (REVERSE, 1.0): ListedNumbers(drop=(0.803,), end_drop=(0.803,)),
}
_RATES: Mapping[Direction, tuple[float, ...]] = {"forward": (0.03, 0.1, 0.3), "reverse": (0.001, 0.003, 0.03, 0.1)}
"""Beside those of the paper, which are in the part before."""
_EXACT: Mapping[tuple[Direction, Target], ListedNumbers] = {
    ("forward", "the new mode"): ListedNumbers(drop=(0.36,), end_drop=(0.78,)),
    ("reverse", "the new mode"): ListedNumbers(drop=(0.75,), end_drop=(0.80,)),
    ("reverse", "both modes"): ListedNumbers(end_gain=(0.07,), end_drop=(-0.20,)),
    ("forward", "both modes"): ListedNumbers(end_gain=(0.97,), end_drop=(-0.20,)),
}


def mode_seeking_arms() -> Iterator[ModeSeekingArm]:
    """All arms."""
    for shape, rated, updates, drawn, listed in _PUBLISHED:
        fit = SampledFit(shape=shape, direction=rated[0], rate=rated[1], updates=updates, drawn_before=drawn)
        yield ModeSeekingArm(name=published_name(shape, rated), part="as published", fit=fit, listed=listed, in_small=True)
    for mean, drops in _FARTHER.items():
        for rated, drop in zip((FORWARD, REVERSE), drops, strict=True):
            yield ModeSeekingArm(
                name=farther_name(rated, mean),
                part="farther modes",
                fit=SampledFit(shape="bi-modal", direction=rated[0], rate=rated[1], updates=200, new_mean=mean),
                listed=ListedNumbers(end_drop=(drop,)),
            )
    for slow_factor in SLOW_FACTORS:
        for rated in (FORWARD, SLOW_FORWARD, REVERSE):
            yield _long("slow factor", rated, slow_factor, listed=_SLOW_FACTOR[rated, slow_factor])
    for direction, rates in _RATES.items():
        yield from (_long("rates", (direction, rate), SLOW_FACTOR) for rate in rates)
    yield from (_long("baseline", REVERSE, slow_factor, baseline=True) for slow_factor in SLOW_FACTORS)
    for slow_factor in SLOW_FACTORS:
        for replay in REPLAY_SHARES:
            yield from (_long("replay", rated, slow_factor, replay) for rated in (FORWARD, REVERSE))
    for (direction, target), listed in _EXACT.items():
        yield ModeSeekingArm(
            name=exact_name(direction, target),
            part="one exact rate",
            fit=ExactFit(direction=direction, target=target),
            listed=listed,
            in_small=True,
        )


def _long(
    part: Part,
    rated: Rated,
    slow_factor: float,
    replay: float = 0.0,
    *,
    baseline: bool = False,
    listed: ListedNumbers = NOTHING_LISTED,
) -> ModeSeekingArm:
    direction, rate = rated
    return ModeSeekingArm(
        name=bi_modal_name(rated, slow_factor, replay, baseline=baseline),
        part=part,
        fit=SampledFit(
            shape="bi-modal",
            direction=direction,
            rate=rate,
            updates=LONG,
            slow_factor=slow_factor,
            replay=replay,
            baseline=baseline,
        ),
        listed=listed,
        in_small=slow_factor in (SLOW_FACTOR, 1.0) and part != "rates",
    )
