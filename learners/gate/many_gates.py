"""Thousands of simulated gates at once, as arrays. The same decisions as `decision.py`, which a test compares gate by gate.

Axes: G gates, C comparisons, in the order of `GateDecision.history`. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from perdure.learners.gate.decision import (
    DESIGN_GAIN,
    FUTILE_GAIN,
    FUTILE_POOL,
    FUTILE_TASK,
    PRIOR_SQUARE,
    PRIOR_WEIGHT,
    STAKE_CAP,
)
from perdure.learners.gate.scope import Scope
from perdure.memory.records import Decision

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]
Differences = Callable[[Generator, int], Floats]
"""The wanted number of independent differences of one comparison."""


def won_or_lost(mean: float, q: float) -> Differences:
    """Wins and losses by 1, and ties. `q` is the share of pairs that differ; it is larger if the mean needs it."""
    differs = max(q, abs(mean))
    lost = (differs - mean) / 2

    def draw(rng: Generator, n: int) -> Floats:
        u = rng.random(n)
        return np.where(u < lost, -1.0, np.where(u < differs, 1.0, 0.0))

    return draw


def sampled(reference: float, candidate: float, samples: int) -> Differences:
    """Each side's score is the mean of `samples` answers, which succeed with these probabilities."""

    def draw(rng: Generator, n: int) -> Floats:
        return (rng.binomial(samples, candidate, n) - rng.binomial(samples, reference, n)) / samples

    return draw


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyGates:
    """What these gates came to."""

    verdicts: tuple[Decision, ...]
    rounds: tuple[int, ...]
    episodes: tuple[int, ...]
    """Pairs, over all comparisons."""

    def share(self, verdict: Decision) -> float:
        return sum(one == verdict for one in self.verdicts) / len(self.verdicts)


def simulate(scope: Scope, differences: Sequence[Differences], runs: int, rng: Generator, limit: int | None = None) -> ManyGates:
    """Run gates of `scope` with these differences, one source for each comparison of `hold`, then of `gain`."""

    def draw(_: int, gates: NDArray[np.intp]) -> Floats:
        return np.stack([source(rng, len(gates)) for source in differences], axis=1)

    return decide(scope, draw, runs, limit)


def decide(scope: Scope, draw: Callable[[int, NDArray[np.intp]], Floats], runs: int, limit: int | None = None) -> ManyGates:
    """Decide `runs` gates. `draw(round, gates)` gives the differences of these gates, by their numbers, in the next round: an array GC."""
    settings = scope.settings
    need = log(settings.need)
    comparisons = tuple(dict.fromkeys((*scope.hold, *scope.gain)))
    hold = np.array([comparisons.index(c) for c in scope.hold], dtype=int)
    gain = np.array([comparisons.index(c) for c in scope.gain], dtype=int)
    in_pool = np.array([c in scope.pool for c in comparisons], dtype=bool)
    verdicts: list[Decision] = ["inconclusive"] * runs
    rounds, episodes = np.zeros(runs, dtype=int), np.zeros(runs, dtype=int)
    gates = np.arange(runs)
    hold_GH = _Wealth(np.array(list(scope.hold.values())), runs)
    gain_GT = _Wealth(None, runs, len(gain))
    pool_G = _Wealth(np.array([settings.pool_margin]), runs)
    passed_GH = np.zeros((runs, len(hold)), dtype=bool)
    pool_passed_G, gain_shown_G = np.full(runs, not scope.pool), np.full(runs, not scope.gain)
    nothing_left = not scope.gain and bool(scope.at_ceiling)
    for r in range(1, (settings.nmax if limit is None else limit) + 1):
        if not len(gates) or not comparisons:
            break
        d_GC = draw(r - 1, gates)
        open_GC = in_pool[None, :] & ~pool_passed_G[:, None]
        open_GC[:, hold] |= ~passed_GH
        open_GC[:, gain] |= ~gain_shown_G[:, None]
        rounds[gates] = r
        episodes[gates] += open_GC.sum(axis=1)
        pool_G.update(d_GC[:, in_pool], ~pool_passed_G[:, None])
        hold_GH.update(d_GC[:, hold, None], ~passed_GH)
        gain_GT.update(d_GC[:, gain, None], np.repeat(~gain_shown_G[:, None], len(gain), axis=1))
        if r < settings.nmin:
            continue
        reject_G = (~passed_GH & (hold_GH.log <= log(FUTILE_TASK))).any(axis=1)
        passed_GH |= hold_GH.log >= need
        reject_G |= ~pool_passed_G & (pool_G.log[:, 0] <= log(FUTILE_POOL))
        pool_passed_G |= pool_G.log[:, 0] >= need
        if len(gain):
            shown_G = np.exp(np.minimum(gain_GT.log, 700.0)).mean(axis=1) >= settings.need
            reject_G |= ~gain_shown_G & ~shown_G & (gain_GT.log <= log(FUTILE_GAIN)).all(axis=1)
            gain_shown_G |= shown_G
        end_G = pool_passed_G & gain_shown_G & passed_GH.all(axis=1)
        for gate in gates[reject_G]:
            verdicts[gate] = "reject"
        for gate in gates[end_G & ~reject_G]:
            verdicts[gate] = "inconclusive" if nothing_left else "promote"
        left = ~(reject_G | end_G)
        gates, passed_GH, pool_passed_G, gain_shown_G = gates[left], passed_GH[left], pool_passed_G[left], gain_shown_G[left]
        for wealth in (hold_GH, gain_GT, pool_G):
            wealth.keep(left)
    return ManyGates(verdicts=tuple(verdicts), rounds=tuple(map(int, rounds)), episodes=tuple(map(int, episodes)))


class _Wealth:
    """The log wealth of many tests, an array GT; with margins that of `NonInferiority`, without that of `Superiority`."""

    def __init__(self, margin_T: Floats | None, gates: int, tests: int = 0) -> None:
        tests = tests if margin_T is None else len(margin_T)
        self.margin_T = np.zeros(tests) if margin_T is None else margin_T
        self._design_T = np.full(tests, DESIGN_GAIN) if margin_T is None else margin_T
        self._cap_T = STAKE_CAP / (1 - self.margin_T)
        self.log = np.zeros((gates, tests))
        self._squares, self._n = np.zeros((gates, tests)), np.zeros((gates, tests))

    def update(self, d: Floats, where_GT: Truths) -> None:
        """One round. `d` is GTK, or GK for a single test: K differences share the stake of the round."""
        d_GTK = d[:, None, :] if d.ndim == 2 else d
        second_moment = (PRIOR_WEIGHT * PRIOR_SQUARE + self._squares) / (PRIOR_WEIGHT + self._n)
        stake = np.minimum(self._design_T / (self._design_T * self._design_T + second_moment), self._cap_T)
        self.log += where_GT * np.log1p(stake[:, :, None] * (d_GTK + self.margin_T[:, None])).sum(axis=2)
        self._squares += where_GT * (d_GTK * d_GTK).sum(axis=2)
        self._n += where_GT * d_GTK.shape[2]

    def keep(self, left_G: Truths) -> None:
        self.log, self._squares, self._n = self.log[left_G], self._squares[left_G], self._n[left_G]
