"""Error rates and power of the gate, simulated with the gate itself.

`self_test` simulates candidates at the edge of each null, where a false promotion is most likely, and compares the rate with alpha.
`operating_curve` shows what a profile lets pass. `plan` estimates, before a gate, whether it would refuse a candidate that holds.

A simulated pair is a win, a loss or a tie with a given mean; `q` is the share of pairs that differ, which is also the mean of d^2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from random import Random
from typing import Any

from perdure.learners.gate.decision import GateDecision
from perdure.learners.gate.scope import PROFILES, Comparison, GateSettings, Scope, fix_scope
from perdure.memory.errors import InputError

TYPICAL_Q = 0.10
LARGEST_FALSE_REJECTION = 0.20


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
    """Of the candidate, on average."""
    bound: float | None
    """The largest acceptable `promoted`, alpha and three standard errors; None if promotions are not false."""

    @property
    def ok(self) -> bool:
        return self.bound is None or self.promoted <= self.bound

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def self_test(
    runs: int = 2000, seed: int = 0, earlier: Sequence[int] = (5, 7), profiles: Sequence[str] = tuple(PROFILES)
) -> Iterator[Rate]:
    """Simulate the gate at every null; a row is `ok` if false promotions stay within their bound.

    Every row has `earlier` environments and one trained one. Where it can, the false candidate has a gain.
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
    """What a profile lets pass in retention: candidates that hold, are a little worse everywhere, or much worse in one environment."""
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
    """How a gate would judge a candidate that holds everywhere, and its cost."""

    profile: str
    environments: int
    """The number of environments that must hold."""
    q: float
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

        Raises `InputError`, with the numbers, if none is enough. Error rates do not depend on `nmax`.
        """
        if not self.refused:
            return self.nmax
        if self.enough is None:
            raise InputError(
                f"gate profile {self.profile} would refuse {self.false_rejection:.0%} of the candidates that hold, more than "
                f"{LARGEST_FALSE_REJECTION:.0%}: {self.environments} environments must hold, nmax is {self.nmax}, and q (the mean squared "
                f"difference of past gates) is {self.q:.3f}; even nmax {8 * self.nmax} is not enough: use wider margins"
            )
        return self.enough


def plan(scope: Scope, q: float, *, runs: int = 400, seed: int = 0) -> Plan:
    """Simulate the retention tests of `scope` on a candidate that holds, at the q of past gates. No test depends on q."""
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
    """One gate to its end, with `means` for the comparisons of `hold`, then of `gain`. If a mean exceeds q, that share of pairs differs."""
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
