"""How often the gate is wrong, and how often it lets a good candidate pass: simulated with the gate itself, never with a copy of it.

`self_test` puts the truth on the edge of each null, where a false promotion is likeliest, and holds the measured rate against alpha.
`operating_curve` tells what a profile lets pass; `plan` asks, before anything is played, whether it would refuse a candidate that holds.

A simulated pair is a win, a loss or a tie: its mean is given, and `q` is the share of pairs that differ (for such pairs the mean of d^2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from random import Random
from typing import Any

from perdure.learners.gate.decision import PROFILES, Comparison, GateDecision, GateSettings, Scope, fix_scope
from perdure.memory.errors import InputError

TYPICAL_Q = 0.10
LARGEST_FALSE_REJECTION = 0.20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How often a gate promoted, where the truth was known."""

    truth: str
    profile: str
    earlier: int
    runs: int
    promoted: float
    rejected: float
    episodes: float
    """Of the candidate, on average."""
    bound: float | None
    """Of `promoted`: alpha and three standard errors, where a promotion would be false."""

    @property
    def ok(self) -> bool:
        return self.bound is None or self.promoted <= self.bound

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def self_test(
    runs: int = 2000, seed: int = 0, earlier: Sequence[int] = (5, 7), profiles: Sequence[str] = tuple(PROFILES)
) -> Iterator[Rate]:
    """Simulate the gate at every null, one row after the other; a row is `ok` where false promotions stay within their bound.

    Every row has `earlier` environments and one that was trained. The candidate is otherwise as good as a false one can be: it gains.
    """
    rng = Random(seed)
    for profile in profiles:
        for count in earlier:
            scope = _scope(PROFILES[profile], count, trained=1)
            pool, task = scope.settings.pool_margin, scope.settings.task_margin
            truths = {
                f"all earlier lost the pool margin ({pool:g}), gain +.5": ([-pool] * count, 0.5),
                f"one earlier lost its margin ({task:g}), gain +.5": ([-task] + [0.0] * (count - 1), 0.5),
                "a copy of the serving version": ([0.0] * count, 0.0),
                f"all earlier lost twice the pool margin ({2 * pool:g}), gain +.5": ([-2 * pool] * count, 0.5),
            }
            for truth, (losses, gain) in truths.items():
                yield _rate(scope, truth, [*losses, gain], TYPICAL_Q, runs, rng, false=True)


def operating_curve(settings: GateSettings, earlier: int, *, q: float = TYPICAL_Q, runs: int = 500, seed: int = 0) -> list[Rate]:
    """What a profile lets pass, retention only: a candidate that holds, one a little worse everywhere, one much worse in one place."""
    rng = Random(seed)
    scope = _scope(settings, earlier)
    rows = [_rate(scope, "all held", [0.0] * earlier, q, runs, rng)]
    rows += [_rate(scope, f"all earlier lost {loss:.2f}", [-loss] * earlier, q, runs, rng) for loss in (0.02, 0.03, 0.05)]
    rows += [
        _rate(scope, f"one earlier lost {loss:.2f}", [-loss] + [0.0] * (earlier - 1), q, runs, rng)
        for loss in (0.10, 0.15, 0.20)
        if earlier
    ]
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a gate would do with a candidate that holds everywhere, and what it would cost."""

    profile: str
    environments: int
    """How many must hold."""
    q: float
    nmax: int
    false_rejection: float
    """The share of such candidates that would not be promoted."""
    episodes: float
    enough: int | None
    """The smallest `nmax` tried at which few enough would be refused; None where none of them does."""

    @property
    def refused(self) -> bool:
        return self.false_rejection > LARGEST_FALSE_REJECTION

    def rounds(self) -> int:
        """The `nmax` to gate with: the profile's own, or the smallest tried with which no more than 20 % of those that hold are refused.

        Raises `InputError`, with the numbers, where none of them is enough. `nmax` enters no test, so the error rates do not depend on it.
        """
        if not self.refused:
            return self.nmax
        if self.enough is None:
            raise InputError(
                f"gate profile {self.profile} would refuse {self.false_rejection:.0%} of the candidates that hold, more than "
                f"{LARGEST_FALSE_REJECTION:.0%}: {self.environments} environments must hold, nmax is {self.nmax}, and q (the mean squared "
                f"difference of past gates) is {self.q:.3f}; nmax {8 * self.nmax} would not do either: use wider margins"
            )
        return self.enough


def plan(scope: Scope, q: float, *, runs: int = 400, seed: int = 0) -> Plan:
    """Simulate the retention tests of `scope` on a candidate that holds, at the q of past gates. It plans only: q enters no test."""
    rng = Random(seed)
    nmax = scope.settings.nmax
    retention = replace(scope, gain=())
    held = [0.0] * len(scope.hold)
    rates: dict[int, Rate] = {}
    if scope.hold:
        for limit in (nmax, 2 * nmax, 4 * nmax, 8 * nmax):
            rates[limit] = _rate(retention, "all held", held, q, runs, rng, limit=limit)
            if 1 - rates[limit].promoted <= LARGEST_FALSE_REJECTION:
                break
    return Plan(
        profile=scope.settings.profile,
        environments=len(scope.hold),
        q=q,
        nmax=nmax,
        false_rejection=1 - rates[nmax].promoted if rates else 0.0,
        episodes=rates[nmax].episodes if rates else 0.0,
        enough=next((limit for limit, rate in rates.items() if 1 - rate.promoted <= LARGEST_FALSE_REJECTION), None),
    )


def _scope(settings: GateSettings, earlier: int, trained: int = 0) -> Scope:
    anchors = {f"earlier {k}": "anchor" for k in range(earlier)}
    return fix_scope(settings, serving="serving", anchors=anchors, trained=[f"trained {j}" for j in range(trained)])


def _rate(
    scope: Scope,
    truth: str,
    means: Sequence[float],
    q: float,
    runs: int,
    rng: Random,
    *,
    false: bool = False,
    limit: int | None = None,
) -> Rate:
    promoted = rejected = episodes = 0
    for _ in range(runs):
        gate = simulate(scope, means, q, rng, limit)
        promoted += gate.verdict == "promote"
        rejected += gate.verdict == "reject"
        episodes += sum(map(len, gate.history.values()))
    alpha = scope.settings.alpha
    return Rate(
        truth=truth,
        profile=scope.settings.profile,
        earlier=len(scope.hold),
        runs=runs,
        promoted=promoted / runs,
        rejected=rejected / runs,
        episodes=episodes / runs,
        bound=alpha + 3 * sqrt(alpha * (1 - alpha) / runs) if false else None,
    )


def simulate(scope: Scope, means: Sequence[float], q: float, rng: Random, limit: int | None = None) -> GateDecision:
    """One gate to its end, with `means` for the comparisons of `hold`, then of `gain`. A mean beyond q takes as many pairs as it needs."""
    gate = GateDecision(scope, limit)
    edges: Mapping[Comparison, tuple[float, float]] = {
        comparison: ((max(q, abs(mean)) - mean) / 2, max(q, abs(mean))) for comparison, mean in zip(gate.history, means, strict=True)
    }
    random = rng.random
    while gate.open:
        differences = {}
        for comparison in gate.open:
            lost, differs = edges[comparison]
            u = random()
            differences[comparison] = -1.0 if u < lost else 1.0 if u < differs else 0.0
        gate.round(differences)
    return gate
