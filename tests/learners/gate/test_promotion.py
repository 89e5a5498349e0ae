"""The rules around a gate, on evidence made by hand."""

from __future__ import annotations

import pytest
from tests.results import gate_result

from perdure.learners.gate.promotion import beaten_anchors, improved, need_dev_scores, only_gain_missing
from perdure.memory.contracts.results import Leg, LegState
from perdure.memory.records import Decision


def gained(state: LegState, wealth: float | None, reference: str = "v1") -> Leg:
    return Leg(state=state, role="trained", reference=reference, wealth=wealth)


def test_an_anchor_gives_way_only_to_a_version_that_beat_that_very_anchor_clearly() -> None:
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
    assert beaten_anchors(evidence, dict.fromkeys(evidence.trained, "v1")) == ["clear"]
    assert beaten_anchors(evidence, {}) == []


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
