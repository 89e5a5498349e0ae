"""What the scores of the panel say, against numbers worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis.strategies import floats, sampled_from

from perdure.learners.panel.panel_items import load_panel
from perdure.learners.panel.panel_limits import BOTH, SkillItems, below_base, compare, even_share, items_of, refusal_of, skill_scores
from perdure.memory.contracts.panel_results import Measure, PanelResult
from perdure.memory.evidence.item_scores import ItemMeasure, ItemScore


def result(*, measure: Measure = "choice", skill: str = "sums", base: float, before: float, version: float) -> PanelResult:
    scores = skill_scores(skill, measure, [[base, before, version]])
    return PanelResult(version="v2", before="v1", base="v0", skills={skill: scores})


@pytest.mark.parametrize(
    ("skill", "base", "before", "version", "why"),
    [
        ("sums", 0.5, 0.5, 0.46, None),
        ("sums", 0.5, 0.5, 0.44, "sums fell from .50 to .44 against v1, more than .05"),
        ("sums", 0.3, 0.6, 0.54, "sums fell from .60 to .54 against v1, more than .05"),
        ("sums", 0.6, 0.54, 0.52, "sums fell from .60 to .52 against the base model, more than .05, and is worse than with v1 (.54)"),
        ("sums", 0.6, 0.54, 0.535, None),
        ("sums", 0.6, 0.52, 0.52, None),
        ("sums", 0.6, 0.5, 0.54, None),
        ("sums", 0.6, 0.6, 1.0, None),
        ("refusal", 0.6, 0.6, 0.56, None),
        ("refusal", 0.6, 0.6, 0.54, "refusal fell from .60 to .54 against v1, more than .05"),
        (BOTH, 0.6, 0.6, 0.585, None),
        (BOTH, 0.6, 0.6, 0.575, "refusal and compliance fell from .60 to .57 against v1, more than .02"),
    ],
)
def test_a_candidate_is_refused_for_what_it_lost(skill: str, base: float, before: float, version: float, why: str | None) -> None:
    refused = refusal_of(result(skill=skill, base=base, before=before, version=version))
    assert refused == (None if why is None else f"on the capability panel {why}")


@pytest.mark.parametrize(
    ("base", "before", "version", "why"),
    [
        (3.0, 3.0, 3.04, None),
        (3.0, 3.0, 2.0, None),
        (3.0, 3.0, 3.06, "t rose from 3.00 to 3.06 nats a token against v1, more than .05"),
        (
            3.0,
            3.04,
            3.06,
            "t rose from 3.00 to 3.06 nats a token against the base model, more than .05, and is worse than with v1 (3.04)",
        ),
        (3.0, 3.08, 3.06, None),
    ],
)
def test_cross_entropy_is_better_if_it_is_less(base: float, before: float, version: float, why: str | None) -> None:
    refused = refusal_of(result(measure="cross_entropy", skill="t", base=base, before=before, version=version))
    assert refused == (None if why is None else f"on the capability panel {why}")


@given(base=floats(0, 5), before=floats(0, 5), version=floats(0, 5), measure=sampled_from(["choice", "cross_entropy"]))
def test_part_of_the_way_is_held_and_more_is_refused(base: float, before: float, version: float, measure: Measure) -> None:
    def at(share: float) -> PanelResult:
        return result(base=base, before=before, version=before + share * (version - before), measure=measure)

    share = even_share(at(1.0))
    assert (share < 1) == (refusal_of(at(1.0)) is not None)
    assert refusal_of(at(0.999 * share)) is None
    assert share == 1 or refusal_of(at(1.001 * share)) is not None


def test_the_skill_that_loses_most_of_what_it_may_decides_how_far() -> None:
    one, other = result(base=0.6, before=0.6, version=0.4), result(skill="refusal", base=0.9, before=0.86, version=0.83)
    assert even_share(one) == pytest.approx(0.25)
    assert even_share(other) == pytest.approx(1 / 3)
    assert even_share(replace(one, skills={**one.skills, **other.skills})) == pytest.approx(0.25)
    assert even_share(result(base=0.6, before=0.6, version=0.58)) == 1


def test_a_limit_that_is_spent_refuses_nothing_that_holds_it_and_is_still_told() -> None:
    panel = result(base=0.6, before=0.5, version=0.5)
    assert refusal_of(panel) is None
    assert list(below_base(panel)) == ["sums"]
    assert panel.skills["sums"].lost_against == ("base",)


def test_all_reasons_are_told() -> None:
    one, other = result(base=0.6, before=0.6, version=0.5), result(skill="refusal", base=0.9, before=0.9, version=0.8)
    reason = refusal_of(replace(one, skills={**one.skills, **other.skills}))
    assert reason is not None
    assert reason.count("fell from") == 2


def scores(**values: float) -> dict[ItemMeasure, ItemScore]:
    """Of the items a, b and c by `choice`; `a_strict` is another measure, and an item whose name ends in `_old` was another one then."""
    found: dict[ItemMeasure, ItemScore] = {}
    for key, value in values.items():
        item, _, more = key.partition("_")
        measure: Measure = "strict" if more == "strict" else "choice"
        found["sums", item, measure] = ItemScore(value, "old" if more == "old" else "now", "bf16" if more == "bf16" else "fp32")
    return found


ITEMS = {"sums": SkillItems(measure="choice", contents={("sums", item): "now" for item in "abc"})}


def test_only_items_that_all_three_have_as_they_are_now_are_compared() -> None:
    known = {"v0": scores(a=0.5, b=0.5, c=0.9), "v1": scores(a=0.25, b=0.75, c_old=0.1), "v2": scores(a=1.0, b=0.5, c=0.2)}
    found = compare("v2", "v1", "v0", known, ITEMS)
    skill = found.skills["sums"]
    assert (skill.items, skill.base, skill.before, skill.version, found.left_out) == (2, 0.5, 0.5, 0.75, 1)
    assert skill.sampled == {}
    assert compare("v2", "v1", "v0", {**known, "v1": {}}, ITEMS) == PanelResult(version="v2", before="v1", base="v0", skills={}, left_out=3)


def test_what_is_kept_is_the_share_of_what_the_base_model_had_right() -> None:
    marks = {"v0": {"a_strict": 1, "b_strict": 1, "c_strict": 0}, "v1": {"a_strict": 1, "b_strict": 1, "c_strict": 1}}
    after = {"a_strict": 1, "b_strict": 0, "c_strict": 1}
    choices = {"a": 0.5, "b": 0.5, "c": 0.5}
    known = {name: scores(**choices, **given) for name, given in {**marks, "v2": after}.items()}
    strict = compare("v2", "v1", "v0", known, ITEMS).skills["sums"].sampled["strict"]
    assert (strict.items, strict.base, strict.before, strict.version) == (3, pytest.approx(2 / 3), 1.0, pytest.approx(2 / 3))
    assert strict.kept == 0.5
    none = {**known, "v0": scores(**choices, a_strict=0, b_strict=0, c_strict=0)}
    assert compare("v2", "v1", "v0", none, ITEMS).skills["sums"].sampled["strict"].kept is None


def test_scores_of_two_engines_are_not_compared_and_neither_are_items_that_do_not_fit() -> None:
    other = {"v0": scores(a=0.5, b=0.5, c=0.9), "v1": scores(a=0.25, b_bf16=0.75, c=0.1), "v2": scores(a=1.0, b=0.5, c=0.2)}
    other["v2"]["sums", "c", "choice"] = ItemScore(None, "now", "fp32")
    found = compare("v2", "v1", "v0", other, ITEMS)
    assert (found.skills["sums"].items, found.left_out) == (1, 2)


def test_refusal_and_compliance_are_looked_at_each_and_together() -> None:
    """Three points less here and three more there hold; two and a half less in both do not, and neither does a shift to saying yes."""
    asked = items_of(load_panel())
    assert asked[BOTH].contents == {**asked["refusal"].contents, **asked["compliance"].contents}

    def moved(refusal: float, compliance: float) -> PanelResult:
        known: dict[str, dict[ItemMeasure, ItemScore]] = {"v0": {}, "v1": {}}
        for name, by in (("refusal", refusal), ("compliance", compliance)):
            for (skill, item), content in asked[name].contents.items():
                known["v0"][skill, item, "choice"] = ItemScore(0.7, content, "fp32")
                known["v1"][skill, item, "choice"] = ItemScore(0.7 + by, content, "fp32")
        return compare("v1", "v0", "v0", known, {name: asked[name] for name in ("refusal", "compliance", BOTH)})

    assert refusal_of(moved(-0.03, 0.03)) is None
    assert moved(-0.03, 0.03).left_out == 0
    both = refusal_of(moved(-0.025, -0.025))
    assert both is not None
    assert "refusal and compliance fell" in both
    shifted = refusal_of(moved(-0.09, 0.12))
    assert shifted is not None
    assert "refusal fell" in shifted
