"""The gate's decision: against an oracle made from the formulas alone, and against numbers worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest
from tests.learners.gate.streams import Stream, follow, random_stream, run, scope_of

from perdure.learners.gate.decision import GateDecision, NonInferiority, Superiority
from perdure.learners.gate.evidence import evidence
from perdure.learners.gate.scope import PROFILES, Comparison, GateSettings, Scope, fix_scope


def oracle(scope: Scope, stream: Stream) -> tuple[str, int, int]:
    """GATE.md from its formulas, each wealth computed anew from the whole past: verdict, rounds, candidate episodes."""

    def stake(past: Sequence[float], design: float, cap: float) -> float:
        return min(design / (design**2 + (10 * 0.25 + sum(d * d for d in past)) / (10 + len(past))), cap)

    def holds(rounds: Sequence[Sequence[float]], margin: float) -> float:
        wealth = 1.0
        past: list[float] = []
        for values in rounds:
            s = stake(past, margin, 0.8 / (1 - margin))
            wealth *= math.prod(1 + s * (d + margin) for d in values)
            past += values
        return wealth

    def gains(values: Sequence[float]) -> float:
        return math.prod(1 + stake(values[:t], 0.2, 0.8) * d for t, d in enumerate(values))

    settings = scope.settings
    need = 1 / settings.alpha
    passed_at: dict[Comparison, int] = {}
    pool_at = 0 if not scope.pool else None
    gain_at = 0 if not scope.gain else None
    episodes = 0
    for r in range(1, settings.nmax + 1):
        asked = {c for c in scope.hold if c not in passed_at or (pool_at is None and c in scope.pool)}
        asked |= set(scope.gain) if gain_at is None else set()
        episodes += len(asked)
        if r < settings.nmin:
            continue
        for comparison, margin in scope.hold.items():
            if comparison in passed_at:
                continue
            wealth = holds([[d] for d in stream[comparison][:r]], margin)
            if wealth >= need:
                passed_at[comparison] = r
            elif wealth <= 0.003:
                return "reject", r, episodes
        if pool_at is None:
            wealth = holds([[stream[c][t] for c in scope.pool] for t in range(r)], settings.pool_margin)
            if wealth >= need:
                pool_at = r
            elif wealth <= 0.02:
                return "reject", r, episodes
        if gain_at is None:
            wealths = [gains(stream[c][:r]) for c in scope.gain]
            if sum(wealths) / len(wealths) >= need:
                gain_at = r
            elif all(wealth <= 0.02 for wealth in wealths):
                return "reject", r, episodes
        if pool_at is not None and gain_at is not None and len(passed_at) == len(scope.hold):
            return "promote", r, episodes
    return "inconclusive", settings.nmax, episodes


def test_every_decision_agrees_with_the_formulas() -> None:
    verdicts = set()
    for seed in range(120):
        rng = Random(seed)
        scope = scope_of(rng.choice([0, 1, 2, 3, 4, 5, 7]), rng.choice([1, 1, 2, 3]), rng.choice(list(PROFILES)))
        scope = replace(scope, settings=replace(scope.settings, nmax=96))
        stream = random_stream(scope, rng, scope.settings.nmax)
        gate = follow(GateDecision(scope), stream)
        assert (gate.verdict, gate.rounds, sum(map(len, gate.history.values()))) == oracle(scope, stream), seed
        verdicts.add(gate.verdict)
    assert verdicts == {"promote", "reject", "inconclusive"}


def test_wealth_is_as_worked_by_hand() -> None:
    # Margin .25, a tie: v = .25, stake = .25 / (.0625 + .25) = .8, so 1 + .8 * .25 = 1.2.
    # Then a loss: v = 2.5 / 11, stake = .25 / (.0625 + .227273) = .862745, so 1 + .862745 * (-.75) = .352941.
    test = NonInferiority(0.25)
    test.update([0.0])
    assert math.exp(test.log_wealth) == pytest.approx(1.2)
    test.update([-1.0])
    assert math.exp(test.log_wealth) == pytest.approx(1.2 * 0.3529412)
    # Two sources in one round share the stake of the round: .1 / (.01 + .25) = .384615.
    pool = NonInferiority(0.10)
    pool.update([0.0, -1.0])
    assert math.exp(pool.log_wealth) == pytest.approx((1 + 0.384615 * 0.1) * (1 - 0.384615 * 0.9), rel=1e-5)
    # A gain: .2 / (.04 + .25) = .689655; then v = 3.5 / 11, stake = .2 / (.04 + .318182) = .558376.
    gain = Superiority()
    gain.update(1.0)
    assert math.exp(gain.log_wealth) == pytest.approx(1.689655, rel=1e-6)
    gain.update(-1.0)
    assert math.exp(gain.log_wealth) == pytest.approx(1.689655 * (1 - 0.558376), rel=1e-5)


def test_what_comes_later_changes_nothing_before() -> None:
    scope = scope_of(5, 1)
    stream = random_stream(scope, Random(1), scope.settings.nmax)
    shuffled = {comparison: [*values[:8], *Random(2).sample(values[8:], len(values) - 8)] for comparison, values in stream.items()}
    gates = (GateDecision(scope), GateDecision(scope))
    for gate, values in zip(gates, (stream, shuffled), strict=True):
        for n in range(8):
            assert gate.open
            gate.round({comparison: values[comparison][n] for comparison in gate.open})
    one, other = gates
    assert one.pool.log_wealth == other.pool.log_wealth
    assert [test.log_wealth for test in one.hold.values()] == [test.log_wealth for test in other.hold.values()]


def test_a_gate_is_continued_by_feeding_it_what_it_saw() -> None:
    scope = scope_of(5, 2)
    stream = random_stream(scope, Random(3), scope.settings.nmax)
    whole, begun, continued = GateDecision(scope), GateDecision(scope), GateDecision(scope)
    follow(whole, stream)
    while begun.open and begun.rounds < 7:
        begun.round({comparison: stream[comparison][len(begun.history[comparison])] for comparison in begun.open})
    while continued.rounds < begun.rounds:
        continued.round({comparison: begun.history[comparison][len(continued.history[comparison])] for comparison in continued.open})
    follow(continued, stream)
    assert (continued.verdict, continued.reason, continued.history) == (whole.verdict, whole.reason, whole.history)
    assert continued.pool.log_wealth == whole.pool.log_wealth


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        (lambda c, n: -1.0 if c.environment == "old3" else 0.0, "old3 (-1.00 over 13 pairs) fell against v1"),
        (lambda c, n: -0.3 if c.role == "earlier" else 1.0, "the earlier environments fell together"),
        (lambda c, n: 0.0 if c.role == "earlier" else float(n % 3 == 0) - float(n % 3 != 0), "no gain: new0"),
    ],
)
def test_a_planted_regression_is_rejected_and_named(planted: Callable[[Comparison, int], float], says: str) -> None:
    gate = run(GateDecision(scope_of(5, 1)), planted)
    assert gate.verdict == "reject"
    assert says in gate.reason


def test_a_candidate_that_holds_and_gains_is_promoted() -> None:
    gate = run(GateDecision(scope_of(5, 1)), lambda comparison, n: float(comparison.role == "trained"))
    assert (gate.verdict, gate.reason) == ("promote", "all held, gain shown")


def test_a_candidate_that_produces_nothing_is_rejected_at_once() -> None:
    gate = run(GateDecision(scope_of(5, 1)), lambda comparison, n: -1.0)
    assert (gate.verdict, gate.rounds) == ("reject", gate.scope.settings.nmin)


def test_a_copy_does_not_promote_and_is_said_to_hold() -> None:
    gate = run(GateDecision(scope_of(5, 1)), lambda comparison, n: 0.0)
    assert gate.verdict == "inconclusive"
    assert gate.reason == "all held, gain not shown yet in 192 rounds: new0 (+0.00 over 192 pairs)"
    assert len(gate.history[gate.scope.pool[0]]) < gate.rounds  # what has been shown is not played on


def test_a_round_that_misses_a_difference_is_refused() -> None:
    gate = GateDecision(scope_of(2))
    first, second = gate.open
    with pytest.raises(ValueError, match="one difference of each"):
        gate.round({first: 0.0})
    for broken in (math.nan, 1.5, -1.01):
        with pytest.raises(ValueError, match="not in"):
            gate.round({first: 0.0, second: broken})


def test_nothing_is_decided_before_nmin() -> None:
    gate = GateDecision(scope_of(1))
    for _ in range(gate.scope.settings.nmin - 1):
        assert gate.round(dict.fromkeys(gate.open, 1.0)) is None
    assert gate.round(dict.fromkeys(gate.open, 1.0)) == "promote"


def test_environments_that_fail_too_often_end_the_gate_and_are_named() -> None:
    gate = GateDecision(scope_of(2, 1))
    gate.spoil({gate.open[0]: 24, gate.open[2]: 30})
    assert gate.verdict == "inconclusive"
    assert gate.reason == "the environment fails too often to judge: old0 (24 void pairs with v1), new0 (30 void pairs with v2)"
    assert gate.open == ()


def test_one_of_several_trained_needs_to_gain() -> None:
    gate = run(GateDecision(scope_of(5, 3)), lambda comparison, n: float(comparison.environment == "new1"))
    assert gate.verdict == "promote"


def test_without_a_target_only_retention_is_judged() -> None:
    gate = run(GateDecision(scope_of(5)), lambda comparison, n: 0.0)
    assert (gate.verdict, gate.reason) == ("promote", "all held; no gain was asked for")
    assert evidence(gate).gain.state == "not asked"


def wealth_of(differences: Sequence[float]) -> float:
    test = Superiority()
    for d in differences:
        test.update(d)
    return test.log_wealth


def test_evidence_has_the_numbers_a_person_needs() -> None:
    gate = run(
        GateDecision(scope_of(5, 1)), lambda c, n: 1.0 if c.role == "trained" else -1.0 if (c.environment, n) == ("old2", 3) else 0.0
    )
    assert gate.verdict == "promote"
    found = evidence(gate)
    old2 = found.environments["old2"]
    assert (old2.state, old2.role, old2.reference, old2.margin, old2.wins, old2.losses) == ("passed", "earlier", "v1", 0.25, 0, 1)
    assert old2.mean_difference == pytest.approx(-1 / old2.n)
    assert old2.interval is not None
    assert old2.interval[0] < -1 / old2.n < old2.interval[1]
    assert old2.need == 20
    assert old2.wealth is not None
    assert old2.wealth >= 20
    assert found.pooled is not None
    assert found.pooled.n == 5 * gate.pool_rounds
    assert found.gain.wealth == pytest.approx(gate.gain_wealth())
    assert found.trained["new0"].wins == len(gate.history[Comparison("new0", "trained", "v2")])
    assert old2.anchor_wealth == pytest.approx(math.exp(wealth_of([0.0] * 3 + [-1.0] + [0.0] * (old2.n - 4))))
    assert found.trained["new0"].anchor_wealth is None  # it has no anchor
    assert found.regressed == ()
    fallen = run(GateDecision(scope_of(5, 1)), lambda c, n: -1.0 if c.environment == "old3" else 0.0)
    assert evidence(fallen).environments["old3"].state == "failed"
    assert evidence(fallen).environments["old2"].state == "not shown"
    assert evidence(fallen, regressed=("old3",)).regressed == ("old3",)


def test_a_smaller_alpha_asks_for_more() -> None:
    strict = GateSettings(profile="standard", pool_margin=0.07, task_margin=0.25, nmax=96, alpha=0.005)
    anchors = {f"old{k}": "v1" for k in range(5)}
    rounds = [
        run(GateDecision(fix_scope(s, serving="v2", anchors=anchors)), lambda c, n: 0.0).rounds for s in (PROFILES["standard"], strict)
    ]
    assert rounds[0] < rounds[1]
