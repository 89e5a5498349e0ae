"""After a rejection: which environments fell? Pure code; `gating.py` plays and stores.

A rejection says that one of many tests failed, or all together; a person, and the next job, need names. So each comparison has an e-value
of 'it fell', the wealth of a bettor against 'the mean difference is 0 or more'. Those that look bad, with an e-value above 1, are played
for up to ten more pairs. (All with a loss so far would take twice the pairs for the same names.) Then e-BH (Wang & Ramdas, 'False discovery
rate control with e-values', 2022) at .10 names those that fell: on average at most a tenth of the names are wrong, whatever the dependence
and wherever the gate stopped.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from perdure.learners.gate.decision import Superiority, add_round, e_value
from perdure.learners.gate.scope import Comparison, Scope

Name = TypeVar("Name", bound=Hashable)

FALSE_DISCOVERY_RATE = 0.10
MOST_MORE_PAIRS = 10


class RegressionSearch:
    """Fed like the gate (`decision.Rounds`), whose pairs it continues; `regressed` has its result at any time.

    Hypotheses are the comparisons that had to hold, and those of the gain in environments without one of these.
    """

    def __init__(self, scope: Scope, history: Mapping[Comparison, Sequence[float]]) -> None:
        held = {comparison.environment for comparison in scope.hold}
        asked = [*scope.hold, *(comparison for comparison in scope.gain if comparison.environment not in held)]
        self.history = {comparison: list(history.get(comparison, ())) for comparison in asked}
        self._tests = {comparison: Superiority() for comparison in asked}
        for comparison, differences in self.history.items():
            for d in differences:
                self._tests[comparison].update(-d)
        self._most = {c: len(past) + MOST_MORE_PAIRS for c, past in self.history.items() if self.e_value(c) > 1}
        self.open = self._wanted()

    @property
    def regressed(self) -> tuple[str, ...]:
        """The environments that fell."""
        return tuple(c.environment for c in e_bh({c: self.e_value(c) for c in self._tests}, FALSE_DISCOVERY_RATE))

    def e_value(self, comparison: Comparison) -> float:
        """Of 'it fell'."""
        return e_value(self._tests[comparison].log_wealth)

    def round(self, differences: Mapping[Comparison, float]) -> None:
        add_round(self, differences)
        for comparison, d in differences.items():
            self._tests[comparison].update(-d)
        self.open = self._wanted()

    def spoil(self, voids: Mapping[Comparison, int]) -> None:
        """These are judged by the pairs that they have."""
        for comparison in voids:
            self._most.pop(comparison, None)
        self.open = self._wanted()

    def _wanted(self) -> tuple[Comparison, ...]:
        """Those with pairs left, until e-BH would name them whatever the others do."""
        enough = len(self._tests) / FALSE_DISCOVERY_RATE
        return tuple(c for c, most in self._most.items() if len(self.history[c]) < most and self.e_value(c) < enough)


def e_bh(e_values: Mapping[Name, float], level: float) -> tuple[Name, ...]:
    """The hypotheses with the k largest e-values, for the largest k of which the k-th is at least n / (level k).

    The expected share of false ones among them is at most `level` (Wang & Ramdas 2022, definition 1 and theorem 1).
    """
    n = len(e_values)
    ranked = sorted(e_values, key=lambda name: e_values[name], reverse=True)
    most = max((k for k, name in enumerate(ranked, start=1) if e_values[name] >= n / (level * k)), default=0)
    named = set(ranked[:most])
    return tuple(name for name in e_values if name in named)
