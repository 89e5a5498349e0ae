"""The gate's decision: against an oracle made from the formulas alone, against numbers worked by hand, and against simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random

import pytest

from perdure.learners.gate.decision import GateDecision, NonInferiority, Superiority
from perdure.learners.gate.evidence import evidence
from perdure.learners.gate.rates import operating_curve, plan, self_test, simulate
from perdure.learners.gate.scope import PROFILES, Comparison, GateSettings, Scope, fix_scope
from perdure.memory.errors import InputError

Stream = Mapping[Comparison, Sequence[float]]


def scope_of(earlier: int, trained: int = 0, profile: str = "standard") -> Scope:
    anchors = {f"old{k}": "v1" for k in range(earlier)}
    return fix_scope(PROFILES[profile], serving="v2", anchors=anchors, trained=[f"new{j}" for j in range(trained)])


def run(gate: GateDecision, difference: Callable[[Comparison, int], float]) -> GateDecision:
    while gate.open:
        gate.round({comparison: difference(comparison, len(gate.history[comparison])) for comparison in gate.open})
    return gate


def follow(gate: GateDecision, stream: Stream) -> GateDecision:
    return run(gate, lambda comparison, n: stream[comparison][n])


def random_stream(scope: Scope, rng: Random, rounds: int) -> Stream:
    """Wins, losses and ties, or graded scores, around a mean that is drawn for each comparison."""
    graded = rng.random() < 0.3
    shift = rng.choice([0.0, 0.0, 0.0, -0.05, -0.1, -0.3])

    def value(mean: float, q: float) -> float:
        if graded:
            return min(max(rng.gauss(mean, 0.2), -1.0), 1.0)
        u, differs = rng.random(), max(q, abs(mean))
        return -1.0 if u < (differs - mean) / 2 else 1.0 if u < differs else 0.0

    stream = {}
    for comparison in (*scope.hold, *scope.gain):
        mean = rng.choice([0.0, 0.1, 0.4]) if comparison in scope.gain else shift
        q = rng.choice([0.02, 0.1, 0.3])
        stream[comparison] = [value(mean, q) for _ in range(rounds)]
    return stream


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
    assert gate.reason == "all held, gain not shown yet in 96 rounds: new0 (+0.00 over 96 pairs)"
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


def test_one_of_several_trained_needs_to_gain() -> None:
    gate = run(GateDecision(scope_of(5, 3)), lambda comparison, n: float(comparison.environment == "new1"))
    assert gate.verdict == "promote"


def test_without_a_target_only_retention_is_judged() -> None:
    gate = run(GateDecision(scope_of(5)), lambda comparison, n: 0.0)
    assert (gate.verdict, gate.reason) == ("promote", "all held; no gain was asked for")
    assert evidence(gate).gain.state == "not asked"


def test_three_or_fewer_earlier_ones_take_economy_and_one_has_no_pool() -> None:
    assert scope_of(4).settings == PROFILES["standard"]
    assert scope_of(3).settings == PROFILES["economy"]
    assert len(scope_of(2).pool) == 2
    assert scope_of(1).pool == ()
    longer = GateSettings(profile="economy", pool_margin=0.10, task_margin=0.30, nmax=96)
    assert fix_scope(longer, serving="v2", anchors={"a": "v1"}).settings.nmax == 96


def test_a_vacuous_environment_has_no_vote() -> None:
    anchors = {f"old{k}": "v1" for k in range(6)}
    scope = fix_scope(PROFILES["standard"], serving="v2", anchors=anchors, anchor_scores={"old0": 0.25, "old1": 0.26, "old2": 1.0})
    assert scope.vacuous == {"old0": 0.25}
    assert [comparison.environment for comparison in scope.pool] == ["old1", "old2", "old3", "old4", "old5"]
    gate = run(GateDecision(scope), lambda comparison, n: 0.0)
    assert evidence(gate).environments["old0"].state == "vacuous"
    assert "0.25" in str(evidence(gate).environments["old0"].note)


def test_vacuous_ones_do_not_count_towards_the_profile() -> None:
    anchors = {f"old{k}": "v1" for k in range(5)}
    scope = fix_scope(PROFILES["standard"], serving="v2", anchors=anchors, anchor_scores={"old0": 0.0, "old1": 0.1, "old2": 0.28})
    assert scope.settings.profile == "economy"
    assert set(scope.vacuous) == {"old0", "old1", "old2"}  # the last by economy's margin


def test_a_vacuous_target_can_still_show_its_gain() -> None:
    scope = fix_scope(PROFILES["standard"], serving="v2", anchors={"new": "v0"}, trained=["new"], anchor_scores={"new": 0.0})
    assert not scope.hold
    assert run(GateDecision(scope), lambda comparison, n: 1.0).verdict == "promote"


def test_a_trained_one_with_an_anchor_must_hold_it_outside_the_pool() -> None:
    anchors = {**{f"old{k}": "v1" for k in range(5)}, "new": "v1"}
    scope = fix_scope(PROFILES["standard"], serving="v2", anchors=anchors, trained=["new"])
    held = Comparison("new", "earlier", "v1")
    assert held in scope.hold
    assert held not in scope.pool
    gate = run(GateDecision(scope), lambda c, n: -1.0 if c == held else float(c.role == "trained"))
    assert gate.verdict == "reject"
    assert gate.reason.startswith("new (-1.00")


def test_pairs_with_a_serving_anchor_serve_both_tests() -> None:
    scope = fix_scope(PROFILES["standard"], serving="v2", anchors={"new": "v2"}, trained=["new"])
    assert tuple(scope.hold) == scope.gain == (Comparison("new", "trained", "v2"),)
    gate = run(GateDecision(scope), lambda c, n: 1.0)
    assert gate.verdict == "promote"
    assert [len(values) for values in gate.history.values()] == [gate.rounds]


def test_at_its_ceiling_a_trained_one_is_asked_to_hold_and_not_to_gain() -> None:
    scope = fix_scope(PROFILES["standard"], serving="v2", anchors={}, trained=["a", "b"], serving_scores={"a": 0.96, "b": 0.95})
    assert scope.at_ceiling == {"a": 0.96}
    assert [comparison.environment for comparison in scope.gain] == ["b"]
    assert tuple(scope.hold) == (Comparison("a", "trained", "v2"),)
    lost = run(GateDecision(scope), lambda c, n: -1.0 if c.environment == "a" else 1.0)
    assert lost.verdict == "reject"
    everything = fix_scope(PROFILES["standard"], serving="v2", anchors={}, trained=["a"], serving_scores={"a": 1.0})
    assert run(GateDecision(everything), lambda c, n: 0.0).verdict == "promote"


def test_a_critical_environment_has_the_tighter_margin_and_the_rounds_for_it() -> None:
    anchors = {f"old{k}": "v1" for k in range(2)}
    scope = fix_scope(PROFILES["standard"], serving="v2", anchors=anchors, critical=["old1"], anchor_scores={"old1": 0.2})
    assert list(scope.hold.values()) == [0.30, 0.10]  # at .2 it is above its own margin and votes
    assert scope.settings.nmax == 128
    alone = fix_scope(PROFILES["economy"], serving="v2", anchors={"a": "v1"}, critical=["a"])
    rounds = [simulate(alone, [0.0], 0.05, Random(seed)).rounds for seed in range(40)]
    assert 35 < sum(rounds) / len(rounds) < 75  # "about 60 pairs"


def test_a_gate_is_inconclusive_if_no_environment_can_vote() -> None:
    gate = GateDecision(fix_scope(PROFILES["standard"], serving="v2", anchors={"a": "v1"}, anchor_scores={"a": 0.0}))
    assert gate.verdict == "inconclusive"
    assert not gate.open
    assert "able to vote" in gate.reason


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
    fallen = run(GateDecision(scope_of(5, 1)), lambda c, n: -1.0 if c.environment == "old3" else 0.0)
    assert evidence(fallen).environments["old3"].state == "failed"
    assert evidence(fallen).environments["old2"].state == "not shown"


def test_a_smaller_alpha_asks_for_more() -> None:
    strict = GateSettings(profile="standard", pool_margin=0.07, task_margin=0.25, nmax=96, alpha=0.005)
    anchors = {f"old{k}": "v1" for k in range(5)}
    rounds = [
        run(GateDecision(fix_scope(s, serving="v2", anchors=anchors)), lambda c, n: 0.0).rounds for s in (PROFILES["standard"], strict)
    ]
    assert rounds[0] < rounds[1]


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(InputError, match=r"task_margin is 25"):
        GateSettings(profile="standard", pool_margin=0.07, task_margin=25, nmax=96)
    with pytest.raises(InputError, match="nmin 6 and nmax 4"):
        GateSettings(profile="standard", pool_margin=0.07, task_margin=0.25, nmax=4)


def test_more_rounds_are_planned_if_a_profile_would_refuse_too_many_good_candidates() -> None:
    assert plan(scope_of(5), 0.10, runs=200).rounds() == 96
    refused = plan(scope_of(2), 0.10, runs=200)
    assert 0.2 < refused.false_rejection < 0.4
    assert refused.rounds() == 96
    hopeless = replace(refused, enough=None)
    with pytest.raises(InputError, match=r"would refuse \d+% .* 2 environments must hold, nmax is 48, and q .* is 0\.100; even nmax 384"):
        hopeless.rounds()


def test_the_operating_curve_is_the_one_that_was_designed() -> None:
    """With 8 environments and q .10: -2 / -3 / -5 points everywhere pass .75 / .53 / .15, one -10 / -15 / -20 passes .77 / .39 / .11."""
    rates = [row.promoted for row in operating_curve(PROFILES["standard"], 8, runs=300)]
    assert rates == pytest.approx([0.95, 0.75, 0.53, 0.15, 0.77, 0.39, 0.11], abs=0.09)


def test_false_promotions_stay_within_their_bound() -> None:
    rows = list(self_test(200, seed=1, earlier=(5,), profiles=("standard", "economy")))
    assert len(rows) == 8
    assert [row.truth for row in rows if not row.ok] == []


def test_a_self_test_row_over_its_bound_is_not_ok() -> None:
    row = next(self_test(10, earlier=(2,), profiles=("economy",)))
    assert row.bound == pytest.approx(0.05 + 3 * math.sqrt(0.05 * 0.95 / 10))
    assert not replace(row, promoted=0.9).ok


@pytest.mark.simulation
def test_false_promotions_stay_within_their_bound_in_two_thousand_gates_each() -> None:
    rows = list(self_test(2000))
    assert len(rows) == 24
    assert [row for row in rows if not row.ok] == []
