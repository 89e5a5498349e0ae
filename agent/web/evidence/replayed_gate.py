"""A gate once more, from its stored pairs: what each test was worth after every round. Nothing is played, and nothing is written.

The pairs are taken up as `learners/gate/gating.py` took them up: those of the candidate's earlier gates first, then the gate's own, each
round as soon as every open comparison has a pair. So the last value of each curve is the e-value of the verdict. Left out: what
is asked after a verdict (`learners/gate/election.py`, `learners/gate/regressions.py`), and how it is drawn (`wealth_chart.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log

from perdure.learners.gate.decision import FUTILE_GAIN, FUTILE_POOL, FUTILE_TASK, GateDecision
from perdure.learners.gate.former_gates import former_gates, sampling_of
from perdure.learners.gate.promotion import lost_on_panel
from perdure.learners.gate.scope import Comparison, Scope, read_scope
from perdure.memory import gates
from perdure.memory.contracts.orders import GateOrder
from perdure.memory.environments import list_environments
from perdure.memory.gates import GateRow
from perdure.memory.jobs import get_job
from perdure.memory.json_value import Document
from perdure.memory.records import Pair
from perdure.memory.store import Store

POOL = "all earlier ones"
GAIN = "all trained ones"


@dataclass(frozen=True, slots=True, kw_only=True)
class WealthCurve:
    """One test of a gate, round by round."""

    test: str
    """`hold`, `pool` or `gain`."""
    environment: str
    """Or `POOL`, or `GAIN`: that at least one trained environment improved."""
    reference: str | None
    """The version compared with; None over several environments."""
    log_wealth: tuple[float, ...]
    """Natural logarithm, first of the wealth of 1 before any pair, then after each round, up to the one with which it passed."""
    need: float
    """The e-value with which it passes."""
    futile: float
    """The e-value with which it rejects; of `gain`, if all of them have come to it."""
    alone: bool = True
    """Whether it can end the gate by itself; False of one of several trained environments."""

    @property
    def wealth(self) -> float:
        return exp(min(self.log_wealth[-1], 700.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedGate:
    """The curves of a gate."""

    curves: tuple[WealthCurve, ...]
    rounds: int
    least_rounds: int
    """Before these nothing is decided."""
    most_rounds: int
    continued: int
    """Rounds that the pairs of earlier gates made."""

    def as_json(self) -> Document:
        """`log_wealth` are natural logarithms, the first before any pair; `need` and `futile` are e-values."""
        tests = [
            {
                "test": one.test,
                "environment": None if one.environment in (POOL, GAIN) else one.environment,
                "reference": one.reference,
                "need": one.need,
                "futile": one.futile,
                "alone": one.alone,
                "log_wealth": list(one.log_wealth),
            }
            for one in self.curves
        ]
        return {"rounds": self.rounds, "least_rounds": self.least_rounds, "tests": tests}


def replay_gate(store: Store, gate: GateRow) -> ReplayedGate | None:
    """The gate as far as it was played; None if the terms of its time do not say enough, or if the panel refused the candidate before."""
    scope = read_scope(gate.terms.scope)
    if scope is None or (gate.result is not None and lost_on_panel(gate.result)):
        return None
    closed, rest = _pairs(store, gate)
    before = GateDecision(scope, limit=2**31)
    _feed(before, closed)
    limit = before.rounds + scope.settings.nmax
    decision, notes = GateDecision(scope, limit=limit), _Notes(scope)
    _feed(decision, [*closed, *rest], notes)
    return ReplayedGate(
        curves=tuple(notes.curves(scope)),
        rounds=decision.rounds,
        least_rounds=scope.settings.nmin,
        most_rounds=limit,
        continued=before.rounds,
    )


class _Notes:
    """What each test was worth after each round, as long as it was open."""

    def __init__(self, scope: Scope) -> None:
        self.hold: dict[Comparison, list[float]] = {comparison: [0.0] for comparison in scope.hold}
        self.gain: dict[Comparison, list[float]] = {comparison: [0.0] for comparison in scope.gain}
        self.pool, self.any_gain = [0.0], [0.0]

    def note(self, gate: GateDecision, is_open: Sequence[bool], passed: set[Comparison]) -> None:
        """After a round; what was open and passed before it."""
        pool_open, gain_open = is_open
        for comparison, test in gate.hold.items():
            if comparison not in passed:
                self.hold[comparison].append(test.log_wealth)
        if pool_open:
            self.pool.append(gate.pool.log_wealth)
        if gain_open:
            self.any_gain.append(log(max(gate.gain_wealth(), 1e-300)))
            for comparison, gain in gate.gain.items():
                self.gain[comparison].append(gain.log_wealth)

    def curves(self, scope: Scope) -> list[WealthCurve]:
        """The pool and the gain as a whole first, then environment by environment."""
        need = scope.settings.need
        found: list[WealthCurve] = []
        several = len(scope.gain) > 1
        if several:
            found.append(_curve("gain", GAIN, None, self.any_gain, need, FUTILE_GAIN))
        for comparison, values in self.gain.items():
            curve = _curve("gain", comparison.environment, comparison.reference, values, need, FUTILE_GAIN)
            found.append(replace(curve, alone=not several))
        if scope.pool:
            found.append(_curve("pool", POOL, None, self.pool, need, FUTILE_POOL))
        for comparison, values in self.hold.items():
            found.append(_curve("hold", comparison.environment, comparison.reference, values, need, FUTILE_TASK))
        return found


def _curve(test: str, environment: str, reference: str | None, values: Sequence[float], need: float, futile: float) -> WealthCurve:
    return WealthCurve(test=test, environment=environment, reference=reference, log_wealth=tuple(values), need=need, futile=futile)


def _feed(gate: GateDecision, pairs: Sequence[Pair], notes: _Notes | None = None) -> None:
    """Pass on whole rounds, as `learners/gate/pairs.py:PairTable.feed` does."""
    comparisons = {(c.environment, c.reference): c for c in gate.scope.comparisons}
    valid: dict[Comparison, list[float]] = {comparison: [] for comparison in gate.scope.comparisons}
    for pair in pairs:
        comparison = comparisons.get((pair.environment, pair.reference))
        if comparison is not None and pair.difference is not None:
            valid[comparison].append(pair.difference)
    while gate.open and all(len(valid[c]) > len(gate.history[c]) for c in gate.open):
        is_open, passed = (not gate.pool_passed, not gate.gain_shown), set(gate.passed)
        gate.round({c: valid[c][len(gate.history[c])] for c in gate.open})
        if notes is not None:
            notes.note(gate, is_open, passed)


def _pairs(store: Store, gate: GateRow) -> tuple[list[Pair], list[Pair]]:
    """Those of the candidate's earlier gates that had a verdict; then those of interrupted ones after them, and the gate's own."""
    earlier = [one for one in gates.gates_of(store, gate.candidate) if one.id < gate.id]
    order = get_job(store, gate.job).order
    if isinstance(order, GateOrder) and order.leads_to == "rollback":
        earlier = [one for one in earlier if one.job == gate.job]
    former = former_gates(earlier, sampling_of(gate.terms))
    first = {row.name: row.first_gate for row in list_environments(store)}

    def counted(one: GateRow) -> list[Pair]:
        """Without those from before a change of their environment, if it was known by then."""
        return [pair for pair in gates.pairs_of(store, one.id) if not one.id < first.get(pair.environment, 0) <= gate.id]

    closed = [pair for one in former.closed for pair in counted(one)]
    return closed, [pair for one in (*former.interrupted, gate) for pair in counted(one)]
