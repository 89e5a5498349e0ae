"""The error of many gates."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest
from tests.results import gate_result

from perdure.learners.gate.intervals import mean_interval
from perdure.learners.gate.lifetime import GAMMA_SUM, e_lond_alpha, life_statement


def test_e_lond_is_as_worked_by_hand() -> None:
    # gamma_1 = 1 / 2.2857657 = .437490; gamma_2 = 2^-1.6 / 2.2857657 = .329877 / 2.2857657 = .144318.
    assert e_lond_alpha(0.05, 1, 0) == pytest.approx(0.0218745, rel=1e-5)
    assert e_lond_alpha(0.05, 2, 0) == pytest.approx(0.05 * 0.144318, rel=1e-5)
    assert e_lond_alpha(0.05, 2, 1) == pytest.approx(0.05 * 0.144318 * 2, rel=1e-5)
    # The tenth candidate after six promotions: 10^-1.6 = .0251189.
    assert e_lond_alpha(0.05, 10, 6) == pytest.approx(0.05 * 0.0251189 / 2.2857657 * 7, rel=1e-5)


def test_the_gammas_add_up_to_one() -> None:
    n = 10_000
    rest = n**-0.6 / 0.6 - 0.5 * n**-1.6  # Euler and Maclaurin, over all t > n
    assert sum(t**-1.6 for t in range(1, n + 1)) + rest == pytest.approx(GAMMA_SUM, abs=1e-6)
    assert sum(e_lond_alpha(1.0, t, 0) for t in range(1, n + 1)) < 1


@pytest.mark.parametrize(("test", "promotions"), [(0, 0), (1, 1), (5, -1)])
def test_counts_that_cannot_be_are_refused(test: int, promotions: int) -> None:
    with pytest.raises(ValueError, match="candidates count from 1"):
        e_lond_alpha(0.05, test, promotions)


def test_over_a_life_at_most_a_share_of_alpha_of_the_promotions_is_false() -> None:
    """Half of the candidates are bad, with e-values as large as they may be: 1 / x with probability x, the smallest x that passes."""
    rng = Random(0)
    shares = []
    for _ in range(400):
        promotions = false = 0
        for t in range(1, 41):
            alpha = e_lond_alpha(0.25, t, promotions)
            bad = rng.random() < 0.5
            if rng.random() < (alpha if bad else 0.9):
                promotions += 1
                false += bad
        shares.append(false / max(promotions, 1))
    assert sum(shares) / len(shares) <= 0.25


def test_what_a_life_may_state() -> None:
    results = [
        replace(gate_result("promote", candidate="v1"), alpha=0.02),
        gate_result("inconclusive", candidate="v2"),
        gate_result("promote", candidate="v2"),  # gated once more: one test
        gate_result("reject", candidate="v3"),
    ]
    first, second = [0.0, -0.25, 0.25, -0.25], [-0.5, 0.0, 0.0, 0.0, 0.0, 1.0]
    stated = life_statement(results, differences={"a": first, "b": second, "c": [], "d": [1.0]}, own=["d"])
    assert (stated.gates, stated.candidates, stated.promotions, stated.environments) == (4, 3, 2, 3)
    assert stated.expected_false == pytest.approx(0.02 + 0.05 + 0.05)
    # Four whole rounds of a and b, and d, which is its own anchor: (-.25 - .5) / 8 * 2 / 3.
    assert stated.drift == pytest.approx(-0.0625)
    low, high = mean_interval(list(zip(first, second, strict=False)), low=-1.0, high=1.0)
    assert stated.drift_interval == pytest.approx((low * 2 / 3, high * 2 / 3))
    assert stated.text().startswith("4 gates of 3 candidates, 2 promotions; at most 0.12 false promotions expected; ")
    assert "-0.062" in stated.text()


def test_a_candidate_counts_with_the_alpha_of_its_first_gate() -> None:
    results = [replace(gate_result("inconclusive"), alpha=0.01), replace(gate_result("promote"), alpha=0.05)]
    assert life_statement(results, differences={}).expected_false == pytest.approx(0.01)


def test_a_version_that_is_its_own_anchor_everywhere_has_not_drifted() -> None:
    stated = life_statement([], differences={}, own=["a", "b"])
    assert (stated.drift, stated.drift_interval, stated.environments) == (0.0, (0.0, 0.0), 2)


def test_a_life_that_compared_nothing_says_so() -> None:
    stated = life_statement([], differences={})
    assert stated.drift is None
    assert stated.text() == (
        "0 gates of 0 candidates, 0 promotions; at most 0.00 false promotions expected; "
        "the serving version was not compared with the anchors"
    )
    assert not math.isnan(stated.expected_false)
