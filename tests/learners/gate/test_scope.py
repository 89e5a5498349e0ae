"""Who is judged how: votes, margins, ceilings, and the comparisons with anchors."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest
from tests.learners.gate.streams import run, scope_of

from perdure.learners.gate.decision import GateDecision
from perdure.learners.gate.evidence import evidence
from perdure.learners.gate.scope import PROFILES, Comparison, GateSettings, fix_scope, margin_of, too_many_voids
from perdure.memory.errors import InputError


def test_three_or_fewer_earlier_ones_take_the_margins_of_economy_and_one_has_no_pool() -> None:
    assert scope_of(4).settings == PROFILES["standard"]
    assert scope_of(3).settings == PROFILES["economy"]
    assert len(scope_of(2).pool) == 2
    assert scope_of(1).pool == ()
    longer = replace(PROFILES["strict"], nmax=500, samples=2, temperature=0.0)
    assert fix_scope(longer, serving="v2", anchors={"a": "v1"}).settings == replace(
        PROFILES["economy"], nmax=500, samples=2, temperature=0.0
    )


@pytest.mark.parametrize(
    ("anchor_score", "economy", "standard", "strict"),
    [(1.0, 0.30, 0.25, 0.15), (0.42, 0.21, 0.21, 0.15), (0.26, 0.13, 0.13, 0.13), (0.15, 0.10, 0.10, 0.10), (None, 0.30, 0.25, 0.15)],
)
def test_no_environment_may_lose_more_than_half_of_what_its_anchor_scores(
    anchor_score: float | None, economy: float, standard: float, strict: float
) -> None:
    margins = [margin_of(PROFILES[name], anchor_score) for name in ("economy", "standard", "strict")]
    assert margins == pytest.approx([economy, standard, strict])
    scores = {"a": anchor_score} if anchor_score is not None else {}
    scope = fix_scope(PROFILES["economy"], serving="v2", anchors={"a": "v1"}, anchor_scores=scores)
    assert list(scope.hold.values()) == pytest.approx([economy])


def test_an_anchor_at_or_below_its_margin_has_no_vote() -> None:
    anchors = {f"old{k}": "v1" for k in range(7)}
    scores = {"old0": 0.05, "old1": 0.1, "old2": 0.11, "old3": 0.42, "old4": 1.0}
    scope = fix_scope(PROFILES["standard"], serving="v2", anchors=anchors, anchor_scores=scores)
    assert scope.vacuous == {"old0": 0.05, "old1": 0.1}
    assert [comparison.environment for comparison in scope.pool] == ["old2", "old3", "old4", "old5", "old6"]
    assert list(scope.hold.values()) == pytest.approx([0.1, 0.21, 0.25, 0.25, 0.25])
    gate = run(GateDecision(scope), lambda comparison, n: 0.0)
    assert evidence(gate).environments["old0"].state == "vacuous"
    assert "0.05" in str(evidence(gate).environments["old0"].note)


def test_a_candidate_that_loses_half_of_a_low_skill_is_refused() -> None:
    """An anchor at .42 may not sink to .12, which the full margin of .30 would let pass."""
    anchors = {f"old{k}": "v1" for k in range(3)}
    scope = fix_scope(PROFILES["economy"], serving="v2", anchors=anchors, trained=["new"], anchor_scores={"old0": 0.42})
    gate = run(GateDecision(scope), lambda c, n: -0.25 if c.environment == "old0" else float(c.role == "trained"))
    assert (gate.verdict, gate.reason.split(" ")[0]) == ("reject", "old0")
    full = replace(scope, hold={**scope.hold, Comparison("old0", "earlier", "v1"): 0.30})
    lenient = run(GateDecision(full), lambda c, n: -0.25 if c.environment == "old0" else float(c.role == "trained"))
    assert lenient.verdict == "promote"


def test_vacuous_ones_do_not_count_towards_the_profile() -> None:
    anchors = {f"old{k}": "v1" for k in range(5)}
    scope = fix_scope(PROFILES["standard"], serving="v2", anchors=anchors, anchor_scores={"old0": 0.0, "old1": 0.1, "old2": 0.28})
    assert scope.settings.profile == "economy"
    assert set(scope.vacuous) == {"old0", "old1"}


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
    assert tuple(scope.hold) == scope.gain == scope.anchors == (Comparison("new", "trained", "v2"),)
    gate = run(GateDecision(scope), lambda c, n: 1.0)
    assert gate.verdict == "promote"
    assert [len(values) for values in gate.history.values()] == [gate.rounds]


def test_every_anchor_can_be_beaten_also_where_it_has_no_vote() -> None:
    anchors = {"old": "v1", "low": "v0", "new": "v0", "fresh": "v2"}
    scope = fix_scope(
        PROFILES["standard"], serving="v2", anchors=anchors, trained=["new", "fresh", "unknown"], anchor_scores={"low": 0.02, "new": 0.0}
    )
    assert scope.anchors == (
        Comparison("old", "earlier", "v1"),
        Comparison("low", "earlier", "v0"),
        Comparison("new", "earlier", "v0"),
        Comparison("fresh", "trained", "v2"),
    )
    assert set(scope.comparisons) == {*scope.anchors, Comparison("new", "trained", "v2"), Comparison("unknown", "trained", "v2")}
    assert len(scope.comparisons) == 6


def test_at_its_ceiling_a_trained_one_is_asked_to_hold_and_not_to_gain() -> None:
    scope = fix_scope(PROFILES["standard"], serving="v2", anchors={}, trained=["a", "b"], serving_scores={"a": 0.96, "b": 0.95})
    assert scope.at_ceiling == {"a": 0.96}
    assert [comparison.environment for comparison in scope.gain] == ["b"]
    assert tuple(scope.hold) == (Comparison("a", "trained", "v2"),)
    lost = run(GateDecision(scope), lambda c, n: -1.0 if c.environment == "a" else 1.0)
    assert lost.verdict == "reject"
    assert run(GateDecision(scope), lambda c, n: float(c.environment == "b")).verdict == "promote"


def test_a_target_at_its_ceiling_votes_also_if_its_anchor_cannot() -> None:
    scope = fix_scope(
        PROFILES["standard"], serving="v2", anchors={"a": "v0"}, trained=["a"], anchor_scores={"a": 0.05}, serving_scores={"a": 0.97}
    )
    assert tuple(scope.hold) == (Comparison("a", "trained", "v2"),)
    assert scope.anchors == (Comparison("a", "earlier", "v0"),)
    assert not scope.vacuous


def test_a_copy_of_a_serving_version_with_all_targets_at_their_ceiling_is_not_promoted() -> None:
    anchors = {"old": "v1", "a": "v1", "b": "v2"}
    scope = fix_scope(PROFILES["standard"], serving="v2", anchors=anchors, trained=["a", "b"], serving_scores={"a": 1.0, "b": 0.96})
    assert not scope.gain
    gate = run(GateDecision(scope), lambda c, n: 0.0)
    assert (gate.verdict, gate.reason) == ("inconclusive", "all held, nothing left to gain")
    assert gate.rounds < scope.settings.nmax  # it does not wait for what cannot come
    assert evidence(gate).gain.state == "not asked"
    assert run(GateDecision(scope), lambda c, n: -float(c.environment == "a")).verdict == "reject"
    alone = fix_scope(PROFILES["standard"], serving="v2", anchors={}, trained=["a"], serving_scores={"a": 1.0})
    assert run(GateDecision(alone), lambda c, n: 0.0).verdict == "inconclusive"


def test_a_critical_environment_has_the_tighter_margin() -> None:
    anchors = {f"old{k}": "v1" for k in range(2)}
    scope = fix_scope(PROFILES["standard"], serving="v2", anchors=anchors, critical=["old1"], anchor_scores={"old1": 0.2})
    assert list(scope.hold.values()) == [0.30, 0.10]  # at .2 it is above its own margin and votes
    alone = fix_scope(PROFILES["economy"], serving="v2", anchors={"a": "v1"}, critical=["a"])
    rng = Random(0)
    rounds = [run(GateDecision(alone), lambda c, n: rng.choices((0.0, -1.0, 1.0), (38, 1, 1))[0]).rounds for _ in range(40)]
    assert 35 < sum(rounds) / len(rounds) < 75  # "about 60 pairs"


def test_a_gate_is_inconclusive_if_no_environment_can_vote() -> None:
    gate = GateDecision(fix_scope(PROFILES["standard"], serving="v2", anchors={"a": "v1"}, anchor_scores={"a": 0.0}))
    assert gate.verdict == "inconclusive"
    assert not gate.open
    assert "able to vote" in gate.reason


def test_an_environment_fails_too_often_if_more_than_a_third_of_its_draws_and_more_than_twenty_are_void() -> None:
    assert not too_many_voids(20, 20)
    assert too_many_voids(21, 21)
    assert too_many_voids(21, 62)
    assert not too_many_voids(21, 63)
    assert not too_many_voids(100, 384)


def test_the_text_of_a_scope_tells_gates_apart_that_draw_their_answers_differently() -> None:
    four, one, greedy = (
        fix_scope(replace(PROFILES["standard"], **changed), serving="v2", anchors={"a": "v1"}).text()  # type: ignore[arg-type]
        for changed in ({}, {"samples": 1}, {"temperature": 0.0})
    )
    assert len({four, one, greedy}) == 3
    moved = fix_scope(PROFILES["standard"], serving="v2", anchors={"a": "v1", "b": "v0"}, anchor_scores={"b": 0.0})
    moved_on = fix_scope(PROFILES["standard"], serving="v2", anchors={"a": "v1", "b": "v1"}, anchor_scores={"b": 0.0})
    assert moved.text() != moved_on.text()
    assert json.loads(moved.text())["anchors"][1] == {"environment": "b", "role": "earlier", "reference": "v0"}


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(InputError, match=r"task_margin is 25"):
        GateSettings(profile="standard", pool_margin=0.07, task_margin=25, nmax=96)
    with pytest.raises(InputError, match="nmin 6 and nmax 4"):
        GateSettings(profile="standard", pool_margin=0.07, task_margin=0.25, nmax=4)
    with pytest.raises(InputError, match="samples is 0"):
        replace(PROFILES["standard"], samples=0)
    with pytest.raises(InputError, match="temperature is -1"):
        replace(PROFILES["standard"], temperature=-1.0)
