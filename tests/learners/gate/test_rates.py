"""Simulated gates: the same decisions as the gate's own, error rates within their bounds, and planning."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from tests.learners.gate.streams import scope_of

from perdure.learners.gate.decision import GateDecision
from perdure.learners.gate.many_gates import Differences, Floats, ManyGates, decide, sampled, simulate, won_or_lost
from perdure.learners.gate.rates import operating_curve, plan, power, self_test
from perdure.learners.gate.scope import PROFILES, Scope, fix_scope


def one_by_one(scope: Scope, differences: np.ndarray) -> ManyGates:  # type: ignore[type-arg]
    """By the gate itself. Differences are an array of gates, rounds and comparisons."""
    gates = []
    for stream in differences:
        gate = GateDecision(scope)
        while gate.open:
            gate.round({c: float(stream[gate.rounds, k]) for k, c in enumerate(gate.history) if c in gate.open})
        gates.append(gate)
    verdicts = tuple(gate.verdict for gate in gates if gate.verdict is not None)
    return ManyGates(
        verdicts=verdicts,
        rounds=tuple(gate.rounds for gate in gates),
        episodes=tuple(sum(map(len, gate.history.values())) for gate in gates),
    )


def test_many_gates_decide_as_one_does() -> None:
    seen = set()
    for seed in range(24):
        rng, choose = np.random.default_rng(seed), Random(seed)
        earlier, trained = choose.choice([(0, 1), (1, 1), (2, 2), (5, 0), (5, 1), (7, 3)])
        anchors = {f"old{k}": "v1" for k in range(earlier)} | ({"new0": choose.choice(["v1", "v2"])} if choose.random() < 0.5 else {})
        scope = fix_scope(
            PROFILES[choose.choice(list(PROFILES))],
            serving="v2",
            anchors=anchors,
            trained=[f"new{j}" for j in range(trained)],
            anchor_scores={"old0": choose.choice([0.05, 0.3, 1.0])},
            serving_scores={"new0": choose.choice([0.5, 0.97])},
        )
        comparisons = len(dict.fromkeys((*scope.hold, *scope.gain)))
        runs, rounds = 12, scope.settings.nmax
        level = choose.choice([-0.1, 0.0, 0.0, 0.2])
        sources = [choose.choice([won_or_lost(level, 0.1), sampled(0.5, 0.5 + level, 4)]) for _ in range(comparisons)]
        stream = np.stack([source(rng, runs * rounds).reshape(runs, rounds) for source in sources], axis=2)
        many = decide(scope, lambda r, gates, stream=stream: stream[gates, r], runs)  # type: ignore[misc]
        assert many == one_by_one(scope, stream), seed
        seen |= set(many.verdicts)
    assert seen == {"promote", "reject", "inconclusive"}


def test_what_is_simulated_has_the_mean_and_the_spread_that_it_should() -> None:
    rng = np.random.default_rng(0)
    tied, graded = won_or_lost(-0.05, 0.1)(rng, 40_000), sampled(0.6, 0.5, 4)(rng, 40_000)
    assert set(tied) == {-1.0, 0.0, 1.0}
    assert tied.mean() == pytest.approx(-0.05, abs=0.006)
    assert (tied**2).mean() == pytest.approx(0.1, abs=0.006)
    assert set(graded * 4) == set(range(-4, 5))
    assert graded.mean() == pytest.approx(-0.1, abs=0.006)
    assert (graded**2).mean() == pytest.approx(0.1**2 + (0.6 * 0.4 + 0.25) / 4, abs=0.006)


def test_nothing_is_simulated_if_nothing_can_vote() -> None:
    scope = fix_scope(PROFILES["standard"], serving="v2", anchors={"a": "v1"}, anchor_scores={"a": 0.0})
    assert simulate(scope, [], 3, np.random.default_rng(0)) == ManyGates(
        verdicts=("inconclusive",) * 3, rounds=(0, 0, 0), episodes=(0, 0, 0)
    )


def test_more_rounds_are_planned_if_a_profile_would_refuse_too_many_good_candidates() -> None:
    easy = plan(scope_of(5), {})
    assert (easy.rounds(), easy.sentence(), easy.refused) == (192, None, False)
    short = replace(scope_of(5), settings=replace(PROFILES["standard"], nmax=48, samples=1))
    refused = plan(short, {f"old{k}": 0.2 for k in range(5)})
    assert refused.false_rejection > 0.2
    assert refused.rounds() > 48
    assert str(refused.sentence()).startswith(f"up to {refused.rounds()} rounds: profile standard would refuse ")


def test_the_noise_of_one_environment_is_planned_for_and_named() -> None:
    scope = replace(scope_of(7), settings=replace(PROFILES["standard"], nmax=96))
    quiet = {f"old{k}": 0.03 for k in range(7)}
    assert plan(scope, quiet).rounds() == 96
    noisy = plan(scope, {**quiet, "old3": 0.9})
    assert noisy.rounds() > 96
    assert noisy.noisiest == ("old3", 0.9)
    assert "the noisiest is old3, with a mean squared difference of 0.900" in str(noisy.sentence())


def test_if_no_number_of_rounds_is_enough_the_profiles_own_are_played_and_it_is_said() -> None:
    hopeless = plan(replace(scope_of(2), settings=replace(PROFILES["economy"], nmax=6, pool_margin=0.02)), {"old1": 0.8})
    assert (hopeless.enough, hopeless.rounds()) == (None, 6)
    assert "even 48 rounds would not be enough: use a profile with wider margins, or retire that environment" in str(hopeless.sentence())


def test_the_operating_curve_is_the_one_that_was_designed() -> None:
    """With one answer a pair, 8 environments and q .10, at 96 rounds: -2 / -3 / -5 points everywhere pass .75 / .53 / .15, one -10 / -15 /
    -20 passes .77 / .39 / .11."""
    designed = replace(PROFILES["standard"], nmax=96, samples=1)
    rates = [row.promoted for row in operating_curve(designed, 8, runs=1000)]
    assert rates == pytest.approx([0.95, 0.75, 0.53, 0.15, 0.77, 0.39, 0.11], abs=0.06)


def test_more_rounds_let_more_good_candidates_pass_for_few_more_episodes() -> None:
    rates = {
        nmax: power(replace(PROFILES["standard"], nmax=nmax, samples=1), 7, gains=[0.3], qs=[0.1, 0.3], runs=400) for nmax in (96, 192)
    }
    assert [rate.promoted for rate in rates[192]] == pytest.approx([0.95, 0.93], abs=0.05)
    assert rates[96][1].promoted < 0.8
    assert rates[192][1].episodes < 1.25 * rates[96][1].episodes


def test_a_candidate_that_holds_passes_with_four_answers_whatever_its_gain() -> None:
    rows = power(PROFILES["standard"], 7, gains=[0.3, 0.2, 0.1], qs=[0.125], runs=400)
    assert [row.promoted for row in rows] == pytest.approx([0.99, 0.99, 0.94], abs=0.04)


def test_false_promotions_stay_within_their_bound() -> None:
    rows = list(self_test(400, seed=1, earlier=(5,)))
    assert len(rows) == 24
    assert [row.truth for row in rows if not row.ok] == []
    assert sum("4 answers" in row.truth for row in rows) == 12


def test_a_self_test_row_over_its_bound_is_not_ok() -> None:
    row = next(self_test(10, earlier=(2,), profiles=("economy",)))
    assert row.bound == pytest.approx(0.05 + 3 * math.sqrt(0.05 * 0.95 / 10))
    assert not replace(row, promoted=0.9).ok


@pytest.mark.long
@pytest.mark.simulation
def test_false_promotions_stay_within_their_bound_in_three_thousand_gates_each() -> None:
    rows = list(self_test(3000, earlier=(1, 3, 4, 7, 20), qs=(0.1, 0.3, 0.6, 1.0)))
    assert len(rows) == 3 * (4 * (4 * 4 + 4) + 2 * 4 + 3)
    assert [row for row in rows if not row.ok] == []


@pytest.mark.simulation
def test_false_promotions_stay_within_their_bound_in_special_cases_too() -> None:
    """Four answers each: a critical environment, targets with an anchor or at their ceiling, and tasks of very different difficulty."""
    runs, rng = 3000, np.random.default_rng(1)
    anchors = {**{f"old{k}": "v1" for k in range(5)}, "own": "v2", "older": "v1"}
    held, gain = sampled(0.6, 0.6, 4), sampled(0.2, 0.7, 4)

    def lost(margin: float, reference: float = 0.8) -> Differences:
        return sampled(reference, reference - margin, 4)

    def mixed_tasks(margin: float) -> Differences:
        def draw(rng: np.random.Generator, n: int) -> Floats:
            reference = rng.choice([0.15, 0.5, 1.0], n)
            return np.asarray((rng.binomial(4, reference - margin, n) - rng.binomial(4, reference, n)) / 4)

        return draw

    standard = PROFILES["standard"]
    critical = fix_scope(standard, serving="v2", anchors=anchors, trained=["own"], critical=["old0"])
    plain = fix_scope(standard, serving="v2", anchors=anchors, trained=["own"])
    shared = fix_scope(standard, serving="v2", anchors=anchors, trained=["own", "older"])
    ceiling = fix_scope(
        standard, serving="v2", anchors=anchors, trained=["own", "older"], anchor_scores={"own": 0.05}, serving_scores={"own": 0.98}
    )
    cases = {
        "critical": (critical, {"old0": lost(0.10)}),
        "a target lost its own margin, another gains": (shared, {"older": lost(0.25), "own": gain}),
        "a target that shares its pairs lost its margin": (shared, {"own": lost(0.25), "older": gain}),
        "a target at its ceiling lost its margin": (ceiling, {"own": lost(0.25, 0.98), "older": gain}),
        "tasks of different difficulty, the pool": (
            plain,
            {f"old{k}": mixed_tasks(0.07) for k in range(5)} | {"older": mixed_tasks(0.07)},
        ),
    }
    for name, (scope, differences) in cases.items():
        comparisons = dict.fromkeys((*scope.hold, *scope.gain))
        sources = [differences.get(c.environment, gain if c in scope.gain else held) for c in comparisons]
        rate = simulate(scope, sources, runs, rng).share("promote")
        assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs), (name, rate)
