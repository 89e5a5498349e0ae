"""Error rates and power of the gate, simulated with the gate's own decisions (`many_gates.py`).

`self_test` simulates candidates at the edge of each null, where a false promotion is most likely, and compares the rate with alpha.
`operating_curve` shows what a profile lets pass, `power` what it costs to pass. `plan` estimates, before a gate, whether it would refuse a
candidate that holds.

With one answer a pair is a win, a loss or a tie, and `q` is the share of pairs that differ; with several, a side's score is the mean of
sampled answers. In both, q is the mean of d^2: a candidate like its reference with success p has q = 2 p (1 - p) with one answer, and half
of p (1 - p), so at most .125, with four.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Any

import numpy as np
from numpy.random import Generator

from perdure.learners.gate.many_gates import Differences, sampled, simulate, won_or_lost
from perdure.learners.gate.scope import PROFILES, GateSettings, Scope, fix_scope

TYPICAL_Q = 0.10
LARGEST_FALSE_REJECTION = 0.20
LOW_ANCHOR = 0.24


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How often simulated gates promoted candidates of known quality."""

    truth: str
    profile: str
    earlier: int
    runs: int
    promoted: float
    rejected: float
    episodes: float
    """Of the candidate, on average; each with all its answers."""
    bound: float | None
    """The largest acceptable `promoted`, alpha and three standard errors; None if promotions are not false."""

    @property
    def ok(self) -> bool:
        return self.bound is None or self.promoted <= self.bound

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def self_test(
    runs: int = 2000,
    seed: int = 0,
    earlier: Sequence[int] = (5, 7),
    profiles: Sequence[str] = tuple(PROFILES),
    qs: Sequence[float] = (TYPICAL_Q,),
) -> Iterator[Rate]:
    """Simulate the gate at every null; a row is `ok` if false promotions stay within their bound.

    Every row has `earlier` environments and one trained one. Where it can, the false candidate has a gain.
    """
    rng = np.random.default_rng(seed)
    for profile in profiles:
        for count in earlier:
            for q in qs:
                yield from _won_or_lost_rows(PROFILES[profile], count, q, runs, rng)
            yield from _sampled_rows(PROFILES[profile], count, runs, rng)


def _won_or_lost_rows(settings: GateSettings, count: int, q: float, runs: int, rng: Generator) -> Iterator[Rate]:
    scope = _scope(settings, count, trained=1)
    pool, task = scope.settings.pool_margin, scope.settings.task_margin
    truths = {
        f"one earlier lost its margin ({task:g}), gain +.5": [-task, *[0.0] * (count - 1), 0.5],
        "a copy of the serving version": [0.0] * (count + 1),
    }
    if scope.pool:
        truths[f"all earlier lost the pool margin ({pool:g}), gain +.5"] = [-pool] * count + [0.5]
        truths[f"all earlier lost twice the pool margin ({2 * pool:g}), gain +.5"] = [-2 * pool] * count + [0.5]
    for truth, means in truths.items():
        yield _rate(scope, f"{truth}, q {q:g}", [won_or_lost(mean, q) for mean in means], runs, rng, false=True)


def _sampled_rows(settings: GateSettings, count: int, runs: int, rng: Generator) -> Iterator[Rate]:
    scope = _scope(settings, count, trained=1)
    low = _scope(settings, count, trained=1, first_anchor=LOW_ANCHOR)
    pool, task = scope.settings.pool_margin, scope.settings.task_margin
    half, n = min(low.hold.values()), settings.samples
    held, gain = sampled(0.6, 0.6, n), sampled(0.3, 0.8, n)
    truths = {
        f"one earlier lost its margin ({task:g}), gain +.5": (scope, [sampled(0.9, 0.9 - task, n), *[held] * (count - 1), gain]),
        f"one earlier, at {LOW_ANCHOR:g}, lost its margin ({half:g}), gain +.5": (
            low,
            [sampled(LOW_ANCHOR, LOW_ANCHOR - half, n), *[held] * (count - 1), gain],
        ),
        "a copy of the serving version": (scope, [held] * (count + 1)),
    }
    if scope.pool:
        truths[f"all earlier lost the pool margin ({pool:g}), gain +.5"] = (scope, [*[sampled(0.6, 0.6 - pool, n)] * count, gain])
    for truth, (judged, differences) in truths.items():
        yield _rate(judged, f"{truth}, {n} answers", differences, runs, rng, false=True)


def operating_curve(settings: GateSettings, earlier: int, *, q: float = TYPICAL_Q, runs: int = 500, seed: int = 0) -> list[Rate]:
    """What a profile lets pass in retention: candidates that hold, are a little worse everywhere, or much worse in one environment."""
    rng = np.random.default_rng(seed)
    scope = _scope(settings, earlier)
    truths = {"all held": [0.0] * earlier, **{f"all earlier lost {loss:.2f}": [-loss] * earlier for loss in (0.02, 0.03, 0.05)}}
    for loss in (0.10, 0.15, 0.20) if earlier else ():
        truths[f"one earlier lost {loss:.2f}"] = [-loss] + [0.0] * (earlier - 1)
    return [_rate(scope, truth, [_around(mean, q, settings.samples) for mean in means], runs, rng) for truth, means in truths.items()]


def power(
    settings: GateSettings, earlier: int, *, gains: Sequence[float], qs: Sequence[float], runs: int = 1000, seed: int = 0
) -> list[Rate]:
    """How often a candidate is promoted that holds everywhere and gains in its one target, and how many episodes that takes."""
    rng = np.random.default_rng(seed)
    scope = _scope(settings, earlier, trained=1)
    return [
        _rate(
            scope,
            f"all held, gain +{gain:g}, q {q:g}",
            [*[_around(0.0, q, settings.samples)] * earlier, _around(gain, q, settings.samples)],
            runs,
            rng,
        )
        for gain in gains
        for q in qs
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a gate would judge a candidate that holds everywhere, and its cost."""

    profile: str
    environments: int
    """The number of environments that must hold."""
    noisiest: tuple[str, float] | None
    """The environment with the largest q, and that q; None if nothing must hold."""
    nmax: int
    false_rejection: float
    """The share of such candidates that are not promoted."""
    episodes: float
    enough: int | None
    """The smallest tried `nmax` at which few enough are refused; None if there is none."""

    @property
    def refused(self) -> bool:
        return self.false_rejection > LARGEST_FALSE_REJECTION

    def rounds(self) -> int:
        """The `nmax` to use: the profile's own, or the smallest tried with which at most 20 % of candidates that hold are refused.

        If none is enough it is the profile's own: more rounds would only cost. Error rates do not depend on `nmax`.
        """
        return self.enough if self.refused and self.enough is not None else self.nmax

    def sentence(self) -> str | None:
        """What differs from the profile, and why; None if nothing does."""
        if not self.refused or self.noisiest is None:
            return None
        name, q = self.noisiest
        why = (
            f"profile {self.profile} would refuse {self.false_rejection:.0%} of the candidates that hold in {self.environments} "
            f"environments within {self.nmax} rounds; the noisiest is {name}, with a mean squared difference of {q:.3f} in past gates"
        )
        if self.enough is not None:
            return f"up to {self.enough} rounds: {why}"
        return f"{why}; even {8 * self.nmax} rounds would not be enough: use a profile with wider margins, or retire that environment"


def plan(scope: Scope, q: Mapping[str, float], *, runs: int = 400, seed: int = 0) -> Plan:
    """Simulate the retention tests of `scope` on a candidate that holds, with each environment's q of past gates. No test depends on q.

    An environment that is not in `q` has a typical one.
    """
    rng = np.random.default_rng(seed)
    nmax = scope.settings.nmax
    retention = replace(scope, gain=(), at_ceiling={})
    q_of = {comparison.environment: q.get(comparison.environment, TYPICAL_Q) for comparison in scope.hold}
    held = [_around(0.0, q_of[comparison.environment], scope.settings.samples) for comparison in scope.hold]
    rates: dict[int, Rate] = {}
    if scope.hold:
        for limit in (nmax, 2 * nmax, 4 * nmax, 8 * nmax):
            rates[limit] = _rate(retention, "all held", held, runs, rng, limit=limit)
            if 1 - rates[limit].promoted <= LARGEST_FALSE_REJECTION:
                break
    return Plan(
        profile=scope.settings.profile,
        environments=len(scope.hold),
        noisiest=max(q_of.items(), key=lambda item: item[1], default=None),
        nmax=nmax,
        false_rejection=1 - rates[nmax].promoted if rates else 0.0,
        episodes=rates[nmax].episodes if rates else 0.0,
        enough=next((limit for limit, rate in rates.items() if 1 - rate.promoted <= LARGEST_FALSE_REJECTION), None),
    )


def _around(mean: float, q: float, samples: int) -> Differences:
    """Differences with this mean and this q: of sampled answers if these can differ so much, else wins and losses by 1.

    The success rates are c - mean / 2 and c + mean / 2, so that q = mean^2 + (2 c (1 - c) - mean^2 / 2) / samples.
    """
    product = (samples * (q - mean * mean) + mean * mean / 2) / 2  # c (1 - c)
    if samples > 1 and 0 <= product <= 0.25:
        c = (1 - sqrt(1 - 4 * product)) / 2
        if abs(mean) / 2 <= c:
            return sampled(c - mean / 2, c + mean / 2, samples)
    return won_or_lost(mean, q)


def _scope(settings: GateSettings, earlier: int, trained: int = 0, first_anchor: float | None = None) -> Scope:
    anchors = {f"earlier {k}": "anchor" for k in range(earlier)}
    scores = {} if first_anchor is None else {"earlier 0": first_anchor}
    return fix_scope(settings, serving="serving", anchors=anchors, trained=[f"trained {j}" for j in range(trained)], anchor_scores=scores)


def _rate(
    scope: Scope,
    truth: str,
    differences: Sequence[Differences],
    runs: int,
    rng: Generator,
    *,
    false: bool = False,
    limit: int | None = None,
) -> Rate:
    gates = simulate(scope, differences, runs, rng, limit)
    alpha = scope.settings.alpha
    return Rate(
        truth=truth,
        profile=scope.settings.profile,
        earlier=len(scope.hold),
        runs=runs,
        promoted=gates.share("promote"),
        rejected=gates.share("reject"),
        episodes=sum(gates.episodes) / runs,
        bound=alpha + 3 * sqrt(alpha * (1 - alpha) / runs) if false else None,
    )
