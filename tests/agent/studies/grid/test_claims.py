"""Claims are tested in their order at .05, and refused if they cannot be tested."""

from __future__ import annotations

import pytest

from perdure.agent.studies.grid.claims import judge_claims
from perdure.agent.studies.grid.grid_file import ClaimSection


def claim(first: str, second: str, *, more_than: float | None = None, less_than: float | None = None) -> ClaimSection:
    return ClaimSection(first=first, second=second, more_than=more_than, less_than=less_than)


def runs(*drops: float, stream: str = "one") -> dict[tuple[int, str], float]:
    return {(seed, stream): drop for seed, drop in enumerate(drops)}


DROPS = {"sft": runs(0.30, 0.34, 0.29, 0.33), "grpo": runs(0.01, 0.02, 0.0, 0.01), "iterative": runs(0.02, 0.02, 0.02, 0.01)}


def test_a_difference_of_every_seed_holds() -> None:
    (made,) = judge_claims([claim("sft", "grpo", more_than=0.0)], {"drop": DROPS}, {})
    assert made.verdict == "holds"
    assert made.n == 4
    assert made.estimate == pytest.approx((0.29 + 0.32 + 0.29 + 0.32) / 4)
    assert made.p is not None
    assert made.p < 0.001
    assert made.claim == "sft - grpo > 0 (drop)"


def test_no_worse_by_a_margin_holds_from_the_other_side() -> None:
    (made,) = judge_claims([claim("iterative", "grpo", less_than=0.05)], {"drop": DROPS}, {})
    assert made.verdict == "holds"
    (made,) = judge_claims([claim("sft", "grpo", less_than=0.05)], {"drop": DROPS}, {})
    assert made.verdict == "not shown"
    assert made.p is not None
    assert made.p > 0.99


def test_after_the_first_that_is_not_shown_no_other_is_tested() -> None:
    claims = [claim("grpo", "iterative", more_than=0.0), claim("sft", "grpo", more_than=0.0)]
    first, second = judge_claims(claims, {"drop": DROPS}, {})
    assert (first.verdict, second.verdict) == ("not shown", "not shown")
    assert second.why.startswith("not tested: 'grpo - iterative > 0 (drop)' comes before it")
    assert second.p is not None
    first, second = judge_claims(claims[::-1], {"drop": DROPS}, {})
    assert (first.verdict, second.verdict) == ("holds", "not shown")


def test_too_few_seeds_are_refused_with_the_number_needed() -> None:
    few = {arm: {key: drop for key, drop in found.items() if key[0] < 2} for arm, found in DROPS.items()}
    (made,) = judge_claims([claim("sft", "grpo", more_than=0.0)], {"drop": few}, {})
    assert made.verdict == "refused"
    assert made.why.startswith("2 seeds: a difference of 0.05 needs 3 seeds")
    assert made.p is None
    one = {arm: {key: drop for key, drop in found.items() if key[0] < 1} for arm, found in DROPS.items()}
    (made,) = judge_claims([claim("sft", "grpo", more_than=0.0)], {"drop": one}, {})
    assert (made.verdict, made.why) == ("refused", "1 seeds with both arms: it needs 3 at least")


def test_what_has_not_the_matched_gain_is_refused() -> None:
    (made,) = judge_claims([claim("sft", "grpo", more_than=0.0)], {"drop": DROPS}, {"sft": ["one"]})
    assert made.verdict == "refused"
    assert "sft: not comparable" in made.why


def test_streams_are_averaged_within_a_seed_without_those_left_out() -> None:
    both = {
        "sft": {**runs(0.1, 0.2, 0.3), **runs(0.5, 0.5, 0.5, stream="two")},
        "grpo": {**runs(0.0, 0.0, 0.0), **runs(0.0, 0.1, 0.2, stream="two")},
    }
    (made,) = judge_claims([claim("sft", "grpo", more_than=0.0)], {"drop": both}, {})
    assert made.n == 3
    assert made.estimate == pytest.approx((0.3 + 0.3 + 0.3) / 3)
    (made,) = judge_claims([claim("sft", "grpo", more_than=0.0)], {"drop": both}, {"grpo": ["two"]})
    assert made.estimate == pytest.approx(0.2)


def test_seeds_that_do_not_differ_show_nothing() -> None:
    """Three of the same value have no spread: what a fourth would be is not known from them."""
    same = {"sft": runs(0.25, 0.25, 0.25), "grpo": runs(0.0, 0.0, 0.0)}
    (made,) = judge_claims([claim("sft", "grpo", more_than=0.0)], {"drop": same}, {})
    assert (made.verdict, made.p, made.low) == ("not shown", None, None)
    assert made.why == "the seeds do not differ: there is no spread to judge by"
