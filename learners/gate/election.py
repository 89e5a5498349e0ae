"""After a promotion: in which environments does the new version become the anchor? Pure code; `gating.py` plays and stores.

An anchor holds the high-water mark of an environment, and incidental gains are what a home lives from. So this is asked in every
environment with an anchor, trained or not, vacuous ones too. The candidate becomes the anchor if the wealth against 'it is no better than
the anchor' reaches 200. The bets begin with the gate's own pairs and continue with up to 96 more. From 24 pairs on, a comparison is played
on only while its wealth is above 2: where the candidate is not better, or hardly, more pairs would cost more than the gate itself
(docs/measurements.md, 'What moves an anchor'), and a small gain that lasts is asked about again after the next promotion. Where the anchor
is above the ceiling nothing more is played.

The pairs that elected an anchor never judge a later candidate: every gate draws fresh seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import log

from perdure.learners.gate.decision import Superiority, add_round, e_value
from perdure.learners.gate.scope import CEILING, Comparison, Scope

REPLACES_ANCHOR = 200.0
"""The e-value with which a version replaces an anchor: alpha = .005."""
MOST_MORE_PAIRS = 96
PAIRS_BEFORE_STOPPING = 24
HOPEFUL_WEALTH = 2.0


class AnchorElection:
    """Fed like the gate (`decision.Rounds`), whose pairs it continues; `new_anchors` has its result at any time."""

    def __init__(self, scope: Scope, history: Mapping[Comparison, Sequence[float]], anchor_scores: Mapping[str, float]) -> None:
        self._tests = {comparison: AnchorTest() for comparison in scope.anchors}
        self.history = {comparison: list(history.get(comparison, ())) for comparison in scope.anchors}
        for comparison, differences in self.history.items():
            self._tests[comparison].update(differences)
        self._most = {c: len(self.history[c]) + MOST_MORE_PAIRS for c in scope.anchors if anchor_scores.get(c.environment, 0.0) <= CEILING}
        self.open = self._wanted()

    @property
    def new_anchors(self) -> tuple[str, ...]:
        """The environments in which the candidate is shown to beat its anchor."""
        return tuple(comparison.environment for comparison, test in self._tests.items() if test.beaten)

    def wealth(self, comparison: Comparison) -> float:
        """The e-value that the candidate beats this anchor."""
        return self._tests[comparison].wealth

    def round(self, differences: Mapping[Comparison, float]) -> None:
        add_round(self, differences)
        for comparison, d in differences.items():
            self._tests[comparison].update((d,))
        self.open = self._wanted()

    def spoil(self, voids: Mapping[Comparison, int]) -> None:
        """These keep their anchor, unless it is beaten already."""
        for comparison in voids:
            self._most.pop(comparison, None)
        self.open = self._wanted()

    def _wanted(self) -> tuple[Comparison, ...]:
        return tuple(c for c, most in self._most.items() if self._tests[c].hopeful and len(self.history[c]) < most)


class AnchorTest:
    """The wealth of one comparison, which stops at 200: that settles it, at any time (Ville)."""

    def __init__(self) -> None:
        self._gain = Superiority()
        self.beaten = False

    def update(self, differences: Iterable[float]) -> None:
        for d in differences:
            if not self.beaten:
                self._gain.update(d)
                self.beaten = self._gain.log_wealth >= log(REPLACES_ANCHOR)

    @property
    def wealth(self) -> float:
        return e_value(self._gain.log_wealth)

    @property
    def hopeful(self) -> bool:
        """Whether more pairs may still show that the anchor is beaten."""
        return not self.beaten and (self._gain.n < PAIRS_BEFORE_STOPPING or self._gain.log_wealth > log(HOPEFUL_WEALTH))


def anchor_wealth(differences: Iterable[float]) -> float:
    """The e-value that the candidate beats its anchor; it stops at the first value of 200 or more."""
    test = AnchorTest()
    test.update(differences)
    return test.wealth
