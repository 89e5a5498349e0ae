"""A model of skills, in place of a language model: what each version can do, what a job changes, and how scores come out.

A version is its true success rate in each environment. A job raises that of its targets and may lower all others. Nothing here knows the
planner or the gate.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, product
from math import comb
from random import Random

from perdure.memory.contracts.orders import Aim

Skills = Mapping[str, float]
"""The true success rate of a version, by environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedEnvironment:
    """An environment of a simulated life."""

    name: str
    start: float
    """Success of the first version."""
    learnable: bool = True
    """False for a game of chance: no job changes its success."""
    chance: float | None = None
    """What the home knows of it: the success of a constant or random answer."""
    oracle: bool = False
    since: int = 0
    """The look at which it comes onto the stream."""
    until: int | None = None
    """The look at which it leaves the stream; None for never."""
    changes_at: int | None = None
    changes_to: float = 0.0
    """From that look on it succeeds this often whatever the version does."""

    def streamed(self, look: int) -> bool:
        return self.since <= look and (self.until is None or look < self.until)

    def changed(self, look: int) -> bool:
        return self.changes_at is not None and look >= self.changes_at


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEffects:
    """What learning jobs do to skills, in points of score from 0 to 1."""

    gain: float = 0.30
    """At each target."""
    repaired: float = 0.08
    """At each target of a repair, of which there are several."""
    first_success: float = 0.15
    """At the target of a job that shows right answers."""
    elsewhere: float = 0.0
    """At every other environment."""
    bad_share: float = 0.0
    """Of the candidates: these lose `bad_losses` in one other environment."""
    bad_losses: tuple[float, float] = (0.20, 0.60)
    """Uniform between these."""
    rivals: tuple[str, str] | None = None
    """Two environments that cannot be held together: what one gains, the other loses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeModel:
    """The conditions of a simulated life."""

    environments: tuple[SimulatedEnvironment, ...]
    effects: JobEffects = field(default_factory=JobEffects)
    q: float | None = None
    """None: each side's score is the mean of sampled answers, as the gate plays. Else each pair is won, lost or even, and this share of
    them differs."""
    failures: float = 0.0
    """The share of the candidate's episodes that fail by chance, before they are played once more."""


def after_job(
    skills: Skills, targets: Collection[str], aim: Aim, model: LifeModel, rng: Random, *, known: Collection[str] | None = None
) -> dict[str, float]:
    """The skills of the candidate that a job with these targets makes of a version.

    What is lost is lost in the environments in `known` (all by default): one that has not come yet begins as it is stated.
    """
    effects = model.effects
    gain = {"repair": effects.repaired, "first success": effects.first_success}.get(aim, effects.gain)
    change = {environment.name: effects.elsewhere for environment in model.environments} | dict.fromkeys(targets, gain)
    learnable = [environment.name for environment in model.environments if environment.learnable]
    learnable = [name for name in learnable if known is None or name in known]
    others = [name for name in learnable if name not in targets]
    if others and effects.bad_share and rng.random() < effects.bad_share:
        change[rng.choice(others)] -= rng.uniform(*effects.bad_losses)
    if effects.rivals is not None:
        for one, other in (effects.rivals, effects.rivals[::-1]):
            if one in targets and other not in targets:
                change[other] -= gain
            elif one in targets:
                change[one] = 0.0  # both at once gain nothing
    return {name: min(1.0, max(0.0, skill + change[name])) if name in learnable else skill for name, skill in skills.items()}


class PairSource:
    """Differences candidate - reference of one comparison, drawn one by one."""

    def __init__(self, values: Sequence[float], shares: Sequence[float], rng: Random) -> None:
        self._values = values
        self._cumulated = list(accumulate(shares))[:-1]
        self._random = rng.random

    def __call__(self) -> float:
        return self._values[bisect(self._cumulated, self._random())]


def pair_source(reference: float, candidate: float, model: LifeModel, samples: int, rng: Random) -> PairSource:
    """Pairs of two versions with these true success rates, with `samples` answers to a seed on each side."""
    fails = model.failures**2  # an episode that failed is played once more
    if model.q is None:
        shares = _sampled(reference, candidate, samples, fails)
    else:
        mean = candidate - reference
        differs = max(model.q, abs(mean))
        shares = {
            -1.0: (differs - mean) / 2 * (1 - fails) + fails,
            0.0: (1 - differs) * (1 - fails),
            1.0: (differs + mean) / 2 * (1 - fails),
        }
    return PairSource(tuple(shares), tuple(shares.values()), rng)


def _sampled(reference: float, candidate: float, samples: int, fails: float) -> dict[float, float]:
    """The distribution of the mean over the candidate's answers of score - reference, which is -1 for an answer that fails."""
    shares: dict[float, float] = {}
    for failed in range(samples + 1 if fails else 1):
        for ours, theirs in product(range(samples - failed + 1), range(samples + 1)):
            value = (ours - (samples - failed) * theirs / samples - failed) / samples
            share = _binomial(samples, failed, fails) * _binomial(samples - failed, ours, candidate) * _binomial(samples, theirs, reference)
            shares[value] = shares.get(value, 0.0) + share
    return shares


def _binomial(n: int, k: int, p: float) -> float:
    return comb(n, k) * p**k * (1 - p) ** (n - k)


def successes(p: float, n: int, rng: Random) -> int:
    """How many of `n` attempts succeed."""
    random = rng.random
    return sum(random() < p for _ in range(n))
