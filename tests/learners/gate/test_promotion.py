"""The rules around a gate, on evidence made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.results import gate_result

from perdure.learners.gate.promotion import (
    all_held,
    fell,
    fell_together,
    gain_asked,
    gain_shown,
    improved,
    need_dev_scores,
    not_shown_to_hold,
    only_gain_missing,
    pool_not_shown,
)
from perdure.memory.contracts.results import Leg, LegState
from perdure.memory.records import Decision


def gained(state: LegState, wealth: float | None, reference: str = "v1") -> Leg:
    return Leg(state=state, role="trained", reference=reference, wealth=wealth)


def test_those_improved_whose_own_gain_was_shown_whatever_the_reference() -> None:
    evidence = gate_result(
        trained={
            "clear": gained("passed", 200.0),
            "narrow": gained("passed", 199.9),
            "against another": gained("passed", 500.0, reference="v2"),
            "not shown": gained("not shown", 500.0),
            "never compared": Leg(state="not asked"),
        }
    ).evidence
    assert improved(evidence) == ["clear", "narrow", "against another"]


@pytest.mark.parametrize(
    ("verdict", "old", "pooled", "gain", "expected"),
    [
        ("inconclusive", "passed", Leg(state="passed"), "not shown", True),
        ("inconclusive", "vacuous", None, "not shown", True),
        ("inconclusive", "not shown", None, "not shown", False),
        ("inconclusive", "passed", Leg(state="not shown"), "not shown", False),
        ("inconclusive", "passed", None, "passed", False),
        ("inconclusive", "passed", None, "not asked", False),
        ("reject", "passed", None, "not shown", False),
    ],
)
def test_only_the_gain_is_missing_if_all_else_held(
    verdict: Decision, old: LegState, pooled: Leg | None, gain: LegState, expected: bool
) -> None:
    assert only_gain_missing(gate_result(verdict, environments={"old": Leg(state=old)}, pooled=pooled, gain=gain)) is expected


def test_anchors_play_dev_seeds_and_the_serving_version_only_if_it_is_not_the_anchor() -> None:
    anchors = {"old": "v1", "target": "v1", "fresh target": "v3"}
    assert need_dev_scores(anchors, ["target", "fresh target", "unknown"], "v3") == (anchors, {"target": "v3", "unknown": "v3"})


def leg(state: LegState) -> Leg:
    return Leg(state=state, reference="v1")


def test_what_a_verdict_says_of_those_that_had_to_hold() -> None:
    passed, vacuous, open_, failed = leg("passed"), leg("vacuous"), leg("not shown"), leg("failed")
    good = gate_result(environments={"a": passed, "b": vacuous}, pooled=passed)
    assert all_held(good)
    assert (fell(good), not_shown_to_hold(good), pool_not_shown(good), fell_together(good)) == ((), (), False, False)
    slow = gate_result("inconclusive", environments={"a": open_, "b": passed, "c": open_}, pooled=open_)
    assert not all_held(slow)
    assert (fell(slow), not_shown_to_hold(slow), pool_not_shown(slow)) == ((), ("a", "c"), True)
    only_pool = gate_result("inconclusive", environments={"a": passed}, pooled=open_)
    assert not all_held(only_pool)
    assert not_shown_to_hold(only_pool) == ()
    bad = gate_result("reject", environments={"a": passed, "b": failed, "c": open_}, pooled=failed)
    assert not all_held(bad)
    assert (fell(bad), fell_together(bad)) == (("b",), True)


def test_those_that_the_search_named_fell_too() -> None:
    rejected = gate_result("reject", environments={"a": leg("failed"), "b": leg("not shown")}, pooled=leg("not shown"))
    named = replace(rejected, evidence=replace(rejected.evidence, regressed=("b", "a", "target")))
    assert fell(named) == ("a", "b", "target")
    assert not all_held(named)


@pytest.mark.parametrize(
    ("gain", "asked", "shown"), [("passed", True, True), ("not shown", True, False), ("failed", True, False), ("not asked", False, False)]
)
def test_a_gain_is_shown_only_if_it_was_asked_for(gain: LegState, asked: bool, shown: bool) -> None:
    result = gate_result("inconclusive", gain=gain)
    assert (gain_asked(result), gain_shown(result)) == (asked, shown)
