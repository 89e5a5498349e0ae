"""The gate's decision: may this candidate serve? Pure code; `gating.py` plays and stores.

    test            against              shows, at level alpha                              rejects if its wealth falls to
    pool            anchors              the mean loss is below `pool_margin`               `FUTILE_POOL`
    hold, for each  anchor, or serving   the loss is below its margin (`scope.margin_of`)   `FUTILE_TASK`
    environment     (`scope.py`)
    gain            serving              at least one trained environment has improved      `FUTILE_GAIN`, in each of them

A test passes when its wealth reaches 1 / alpha, and then stays passed. From round `nmin` on, one rejection rejects the candidate, and it is
promoted when all tests have passed. If neither happens in `nmax` rounds, the gate is inconclusive. The wealth is a bettor's, so it may be
checked after every round (Waudby-Smith & Ramdas 2024); docs/learning.md ('Why the error rate holds') has the reasons.

More rules: which environments are tested, from scores on dev seeds (`scope.py`); the order of the checks (`_decide`); how far past gates
raise `nmax` (`rates.plan`); too many void pairs end a gate (`scope.too_many_voids`); after a promotion, where the candidate becomes
the anchor (`election.py`); after a rejection, which environments fell (`regressions.py`); the error of many gates (`lifetime.py`); what a
verdict does to the versions (`agent/processes/judging.py:apply_verdict`), and what follows it (`agent/planning/follow_up.py`).

Left out: further candidates of one job after a rejection. `evidence.py` has the numbers of a gate, `rates.py` simulates errors and power.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log, log1p
from typing import Protocol

from perdure.learners.gate.scope import Comparison, Scope
from perdure.memory.records import Decision

PRIOR_WEIGHT, PRIOR_SQUARE = 10, 0.25
"""The first guess of a difference's second moment, .25, weighs as much as ten pairs."""
STAKE_CAP = 0.8
"""One pair can take at most this share of the wealth."""
DESIGN_GAIN = 0.2
FUTILE_POOL, FUTILE_TASK, FUTILE_GAIN = 0.02, 0.003, 0.02
"""A test whose wealth has fallen this far rejects."""


class Rounds(Protocol):
    """What wants pairs round by round: the decision itself, and what is asked after it (`election.py`, `regressions.py`)."""

    open: tuple[Comparison, ...]
    """The comparisons that the next round needs a pair of; empty at the end."""
    history: dict[Comparison, list[float]]
    """The differences of each comparison so far, in order."""

    def round(self, differences: Mapping[Comparison, float]) -> object:
        """Add one round: the difference candidate - reference, in [-1, 1], of each open comparison. A failed candidate has -1."""
        ...

    def spoil(self, voids: Mapping[Comparison, int]) -> None:
        """These environments failed too often to judge; the number of void pairs of each."""
        ...


class NonInferiority:
    """Wealth against 'the mean difference is -margin or less'. The stake is the Kelly bet for a true difference of 0."""

    def __init__(self, margin: float) -> None:
        self.margin, self.cap = margin, STAKE_CAP / (1 - margin)
        self.n, self.squares, self.log_wealth = 0, 0.0, 0.0

    def update(self, differences: Sequence[float]) -> None:
        """One stake for one round: K independent differences of mean m multiply wealth by at most (1 + stake (m + margin))^K on average."""
        margin = self.margin
        second_moment = (PRIOR_WEIGHT * PRIOR_SQUARE + self.squares) / (PRIOR_WEIGHT + self.n)
        stake = min(margin / (margin * margin + second_moment), self.cap)
        for d in differences:
            self.log_wealth += log1p(stake * (d + margin))
            self.squares += d * d
        self.n += len(differences)


class Superiority:
    """Wealth against 'the mean difference is 0 or less'. The stake is the Kelly bet for a gain of `DESIGN_GAIN`."""

    def __init__(self) -> None:
        self.n, self.squares, self.log_wealth = 0, 0.0, 0.0

    def update(self, d: float) -> None:
        second_moment = (PRIOR_WEIGHT * PRIOR_SQUARE + self.squares) / (PRIOR_WEIGHT + self.n)
        self.log_wealth += log1p(min(DESIGN_GAIN / (DESIGN_GAIN * DESIGN_GAIN + second_moment), STAKE_CAP) * d)
        self.squares += d * d
        self.n += 1


class GateDecision:
    """One gate: play one valid pair of each comparison in `open`, pass the differences to `round`, and repeat until there is a `verdict`.

    After `limit` rounds (`nmax` by default) it ends as inconclusive.
    """

    def __init__(self, scope: Scope, limit: int | None = None) -> None:
        self.scope = scope
        self.limit = scope.settings.nmax if limit is None else limit
        self.rounds = 0
        self.verdict: Decision | None = None
        self.reason = ""
        self.history: dict[Comparison, list[float]] = {comparison: [] for comparison in (*scope.hold, *scope.gain)}
        self.hold = {comparison: NonInferiority(margin) for comparison, margin in scope.hold.items()}
        self.passed: set[Comparison] = set()
        self.pool = NonInferiority(scope.settings.pool_margin)
        self.pool_rounds = 0
        self.pool_passed = not scope.pool
        self.gain = {comparison: Superiority() for comparison in scope.gain}
        self.gain_shown = not scope.gain
        self.open = tuple(self.history)
        """The comparisons that the next round needs a pair of; empty after the verdict."""
        if not self.open:
            self.end("inconclusive", "no environment is able to vote, so nothing could be shown")

    def round(self, differences: Mapping[Comparison, float]) -> Decision | None:
        """Add one round (`Rounds.round`) and say whether that ends the gate."""
        if self.verdict is not None:
            raise ValueError(f"this gate has ended: {self.verdict}")
        add_round(self, differences)
        self.rounds += 1
        self._bet(differences)
        if self.rounds >= self.scope.settings.nmin:
            self._decide()
        if self.verdict is None and self.rounds >= self.limit:
            self.end("inconclusive", self._not_shown())
        self._reopen()
        return self.verdict

    def end(self, verdict: Decision, reason: str) -> None:
        """End with this verdict. Callers use it only to give up; promotions are decided in `round`."""
        self.verdict, self.reason, self.open = verdict, reason, ()

    def spoil(self, voids: Mapping[Comparison, int]) -> None:
        names = ", ".join(f"{c.environment} ({n} void pairs with {c.reference})" for c, n in voids.items())
        self.end("inconclusive", f"the environment fails too often to judge: {names}")

    def _bet(self, differences: Mapping[Comparison, float]) -> None:
        if not self.pool_passed:
            self.pool.update([differences[comparison] for comparison in self.scope.pool])
            self.pool_rounds += 1
        for comparison, test in self.hold.items():
            if comparison not in self.passed:
                test.update((differences[comparison],))
        if not self.gain_shown:
            for comparison, gain in self.gain.items():
                gain.update(differences[comparison])

    def _decide(self) -> None:
        settings = self.scope.settings
        need = log(settings.need)
        for comparison, test in self.hold.items():
            if comparison not in self.passed:
                if test.log_wealth >= need:
                    self.passed.add(comparison)
                elif test.log_wealth <= log(FUTILE_TASK):
                    return self.end("reject", f"{self._mean_of(comparison)} fell against {comparison.reference}")
        if not self.pool_passed:
            if self.pool.log_wealth >= need:
                self.pool_passed = True
            elif self.pool.log_wealth <= log(FUTILE_POOL):
                fell = [comparison for comparison in self.scope.pool if sum(self.history[comparison]) < 0]
                worst = sorted(fell, key=lambda comparison: sum(self.history[comparison]))[:3]
                return self.end("reject", f"the earlier environments fell together, most: {', '.join(map(self._mean_of, worst))}")
        if not self.gain_shown:
            # The mean of e-values is an e-value, whatever their dependence: at least one improved.
            self.gain_shown = self.gain_wealth() >= settings.need
            if not self.gain_shown and all(gain.log_wealth <= log(FUTILE_GAIN) for gain in self.gain.values()):
                return self.end("reject", f"no gain: {', '.join(map(self._mean_of, self.gain))}")
        if self.pool_passed and self.gain_shown and len(self.passed) == len(self.hold):
            self._all_passed()
        return None

    def _all_passed(self) -> None:
        shown = "all held" if self.hold else "nothing earlier to hold"
        if self.gain:
            self.end("promote", f"{shown}, gain shown")
        elif self.scope.at_ceiling:  # a copy would come this far too
            self.end("inconclusive", f"{shown}, nothing left to gain")
        else:
            self.end("promote", f"{shown}; no gain was asked for")

    def _reopen(self) -> None:
        if self.verdict is not None:
            return
        wanted = dict.fromkeys(comparison for comparison in self.hold if comparison not in self.passed)
        if not self.pool_passed:
            wanted.update(dict.fromkeys(self.scope.pool))  # also those that have passed, until the pool has
        if not self.gain_shown:
            wanted.update(dict.fromkeys(self.gain))
        self.open = tuple(wanted)

    def _not_shown(self) -> str:
        missing = [self._mean_of(comparison) for comparison in self.hold if comparison not in self.passed]
        if not self.pool_passed:
            missing.append("the earlier environments together")
        if missing:
            return f"not shown to hold in {self.rounds} rounds: {', '.join(missing)}"
        return f"all held, gain not shown yet in {self.rounds} rounds: {', '.join(map(self._mean_of, self.gain))}"

    def _mean_of(self, comparison: Comparison) -> str:
        values = self.history[comparison]
        return f"{comparison.environment} ({sum(values) / len(values):+.2f} over {len(values)} pairs)"

    def gain_wealth(self) -> float:
        """The e-value of 'at least one trained environment improved'."""
        return sum(e_value(gain.log_wealth) for gain in self.gain.values()) / len(self.gain)


def add_round(rounds: Rounds, differences: Mapping[Comparison, float]) -> None:
    """Append one difference to the history of each open comparison. Raises `ValueError` if one is missing or out of range."""
    if differences.keys() != set(rounds.open):
        raise ValueError(f"a round needs one difference of each of {rounds.open}, not of {tuple(differences)}")
    for comparison, d in differences.items():
        if not -1 <= d <= 1:
            raise ValueError(f"difference {d} of {comparison} is not in [-1, 1]")
        rounds.history[comparison].append(d)


def e_value(log_wealth: float) -> float:
    """Wealth from its logarithm."""
    return exp(min(log_wealth, 700.0))  # a larger value would overflow
