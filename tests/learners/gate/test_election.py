"""Where a promoted version becomes the anchor."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest
from tests.learners.gate.streams import run, score

from perdure.learners.gate.decision import GateDecision, Superiority
from perdure.learners.gate.election import MOST_MORE_PAIRS, PAIRS_BEFORE_STOPPING, AnchorElection, anchor_wealth
from perdure.learners.gate.evidence import evidence
from perdure.learners.gate.scope import PROFILES, Comparison, Scope, fix_scope

ANCHORS = {**{f"old{k}": "v1" for k in range(5)}, "low": "v0", "new": "v1"}
SCORES = {"old4": 0.97, "low": 0.04}


def scope_of(serving: str) -> Scope:
    """Six earlier environments, of which one has an anchor that cannot vote, and a target."""
    return fix_scope(PROFILES["standard"], serving=serving, anchors=ANCHORS, trained=["new"], anchor_scores=SCORES)


def gate_and_election(scope: Scope, difference: Callable[[Comparison, int], float]) -> tuple[GateDecision, AnchorElection]:
    gate = run(GateDecision(scope), difference)
    assert gate.verdict == "promote"
    return gate, run(AnchorElection(scope, gate.history, SCORES), difference)


@pytest.mark.parametrize("serving", ["v1", "v2"])
def test_a_target_that_is_always_won_becomes_the_anchor(serving: str) -> None:
    """Also if it is the only one, and if its anchor is older than the serving version."""
    gate, election = gate_and_election(scope_of(serving), lambda c, n: float(c.environment == "new"))
    assert gate.gain_wealth() < 40  # what showed the gain is far from 200
    assert election.new_anchors == ("new",)
    against = Comparison("new", "trained" if serving == "v1" else "earlier", "v1")
    assert election.wealth(against) >= 200
    assert len(election.history[against]) < 30


def test_an_anchor_that_an_environment_beats_which_was_not_trained_moves() -> None:
    _, election = gate_and_election(scope_of("v1"), lambda c, n: float(c.environment == "new" or (c.environment == "old2" and n % 2)))
    assert election.new_anchors == ("old2", "new")


def test_an_anchor_without_a_vote_gives_way_too() -> None:
    gate, election = gate_and_election(scope_of("v1"), lambda c, n: float(c.environment in ("new", "low")))
    assert Comparison("low", "earlier", "v0") not in gate.history
    assert election.new_anchors == ("low", "new")
    found = evidence(gate, history=election.history)
    assert found.environments["low"].state == "vacuous"
    assert found.environments["low"].anchor_wealth == pytest.approx(election.wealth(Comparison("low", "earlier", "v0")))


def test_an_anchor_that_is_only_reached_stays_and_costs_few_pairs() -> None:
    gate, election = gate_and_election(scope_of("v1"), lambda c, n: float(c.environment == "new"))
    for comparison in election.history:
        if comparison.environment.startswith("old"):
            more = len(election.history[comparison]) - len(gate.history[comparison])
            assert more <= max(0, PAIRS_BEFORE_STOPPING - len(gate.history[comparison]))


def test_where_the_anchor_is_at_its_ceiling_nothing_more_is_played() -> None:
    gate, election = gate_and_election(scope_of("v1"), lambda c, n: float(c.environment == "new"))
    full = Comparison("old4", "earlier", "v1")
    assert election.history[full] == gate.history[full]


def test_a_slow_gain_is_played_for_so_many_pairs_at_most() -> None:
    gate, election = gate_and_election(
        scope_of("v1"), lambda c, n: float(c.environment == "new") or (0.05 if c.environment == "old1" else 0.0)
    )
    slow = Comparison("old1", "earlier", "v1")
    assert len(election.history[slow]) - len(gate.history[slow]) == MOST_MORE_PAIRS
    assert 2 < election.wealth(slow) < 200
    assert "old1" not in election.new_anchors


def test_the_wealth_against_an_anchor_is_never_frozen_before_it_is_settled() -> None:
    wins = [1.0] * 40
    by_hand, reached = Superiority(), 0
    while by_hand.log_wealth < math.log(200):
        by_hand.update(1.0)
        reached += 1
    assert anchor_wealth(wins) == pytest.approx(math.exp(by_hand.log_wealth))
    assert anchor_wealth(wins[: reached - 1]) < 200
    assert anchor_wealth([*wins[:reached], -1.0]) == anchor_wealth(wins)  # what is shown stays shown
    assert anchor_wealth([]) == 1


def test_an_election_that_was_cut_off_comes_to_the_same_end() -> None:
    scope = scope_of("v2")
    rng = Random(4)
    values = {c: [score(rng, 0.75, 4) - score(rng, 0.5, 4) for _ in range(400)] for c in scope.comparisons}
    gate, whole = gate_and_election(scope, lambda c, n: values[c][n])
    begun = AnchorElection(scope, gate.history, SCORES)
    for _ in range(7):
        begun.round({c: values[c][len(begun.history[c])] for c in begun.open})
    again = AnchorElection(scope, run(GateDecision(scope), lambda c, n: values[c][n]).history, SCORES)
    while any(len(again.history[c]) < len(begun.history[c]) for c in again.open):
        again.round({c: begun.history[c][len(again.history[c])] for c in again.open})
    assert (again.open, again.history, again.new_anchors) == (begun.open, begun.history, begun.new_anchors)
    run(again, lambda c, n: values[c][n])
    assert (again.history, again.new_anchors) == (whole.history, whole.new_anchors)


def test_an_environment_that_fails_too_often_keeps_its_anchor_and_the_others_go_on() -> None:
    scope = scope_of("v1")
    gate = run(GateDecision(scope), lambda c, n: float(c.environment in ("new", "old0")))
    election = AnchorElection(scope, gate.history, SCORES)
    spoilt = Comparison("new", "trained", "v1")
    if spoilt in election.open:
        election.spoil({spoilt: 21})
    assert spoilt not in election.open
    run(election, lambda c, n: 1.0)
    assert "old0" in election.new_anchors


def test_a_round_needs_one_difference_of_each_open_comparison() -> None:
    scope = scope_of("v1")
    gate = run(GateDecision(scope), lambda c, n: float(c.environment == "new"))
    election = AnchorElection(scope, gate.history, SCORES)
    with pytest.raises(ValueError, match="one difference of each"):
        election.round({})
    with pytest.raises(ValueError, match="not in"):
        election.round(dict.fromkeys(election.open, 2.0))


@pytest.mark.simulation
def test_a_version_that_is_no_better_replaces_an_anchor_in_less_than_one_of_two_hundred() -> None:
    rng = Random(0)
    scope = fix_scope(PROFILES["standard"], serving="v1", anchors={"a": "v1"})
    runs = 3000
    for answers in (1, 4):
        for success in (0.2, 0.5, 0.9):
            beaten = sum(
                bool(
                    run(AnchorElection(scope, {}, {}), lambda c, n, p=success, k=answers: score(rng, p, k) - score(rng, p, k)).new_anchors  # type: ignore[misc]
                )
                for _ in range(runs)
            )
            assert beaten / runs <= 0.005 + 3 * math.sqrt(0.005 * 0.995 / runs), (answers, success)


@pytest.mark.simulation
@pytest.mark.parametrize(
    ("gain", "least", "most_pairs"), [(0.0, 0.0, 14), (0.05, 0.0, 24), (0.1, 0.2, 40), (0.2, 0.85, 34), (0.3, 0.98, 20)]
)
def test_what_an_election_finds_and_what_it_costs(gain: float, least: float, most_pairs: float) -> None:
    """From .5, with four answers, after 16 pairs in the gate; a bound of .05 would take 45, 76, 76, 31 and 16 pairs."""
    rng = Random(1)
    scope = fix_scope(PROFILES["standard"], serving="v1", anchors={"a": "v1"})
    (comparison,) = scope.anchors

    def difference(c: Comparison, n: int) -> float:
        return score(rng, 0.5 + gain, 4) - score(rng, 0.5, 4)

    beaten = pairs = 0
    for _ in range(400):
        election = AnchorElection(scope, {comparison: [difference(comparison, n) for n in range(16)]}, {})
        run(election, difference)
        beaten += bool(election.new_anchors)
        pairs += len(election.history[comparison]) - 16
    assert beaten / 400 >= least
    assert pairs / 400 <= most_pairs
