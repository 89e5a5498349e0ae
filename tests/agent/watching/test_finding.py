"""What a confirming gate shows: a loss, a change of the environment, or nothing."""

from __future__ import annotations

from random import Random

import pytest
from tests.agent.watching.watched_home import mean

from perdure.agent.watching.finding import CONFIRMING_ROUNDS, SideScores, confirming_settings, expected_range, interval, judge
from perdure.learners.gate.scope import PROFILES


def side(known: float | None, fresh: float, pairs: int = 100) -> SideScores:
    return SideScores(known=[] if known is None else mean(known), fresh=mean(fresh, pairs))


def test_a_loss_that_is_shown_is_a_loss_if_the_version_scores_less_than_it_did() -> None:
    lost = judge(loss_shown=True, serving=side(0.8, 0.4), former=side(0.5, 0.8))
    assert lost.kind == "lost"
    assert lost.why == ("the serving version scores 0.40 on 100 fresh tasks, 0.80 before; the version before scores 0.80, 0.50 before")
    assert judge(loss_shown=True, serving=side(0.4, 0.5), former=side(0.5, 0.8)).kind == "nothing"


@pytest.mark.parametrize(
    ("serving", "former", "kind"),
    [
        (side(0.8, 0.0), side(0.4, 0.0), "changed"),  # impossible now
        (side(0.8, 0.0), side(0.0, 0.0), "changed"),  # the version before could never do it, so it cannot testify
        (side(0.8, 0.0), side(None, 0.0), "changed"),
        (side(0.9, 0.5), side(0.9, 0.5), "changed"),  # noise
        (side(0.4, 1.0), side(0.4, 1.0), "changed"),  # always paid
        (side(0.4, 1.0), side(1.0, 1.0), "changed"),
        (side(0.8, 0.7), side(0.4, 0.3), "nothing"),  # within the noise
        (side(0.8, 0.3), side(0.5, 0.5), "nothing"),  # the version before scores what it did
        (side(0.4, 1.0), side(0.4, 0.4), "nothing"),
        (side(0.8, 0.0, 3), side(0.4, 0.0, 3), "nothing"),  # too little
    ],
)
def test_an_environment_has_changed_if_both_versions_score_elsewhere(serving: SideScores, former: SideScores, kind: str) -> None:
    assert judge(loss_shown=False, serving=serving, former=former).kind == kind


def test_without_scores_nothing_is_found() -> None:
    none = SideScores(known=mean(0.8), fresh=[])
    found = judge(loss_shown=True, serving=none, former=none)
    assert (found.kind, found.why) == ("nothing", "no scores came of the confirming gate: the environment failed")


def test_what_is_expected_is_an_interval_with_slack() -> None:
    low, high = interval(mean(0.6, 100))
    assert expected_range(mean(0.6, 100)) == (pytest.approx(low - 0.05), pytest.approx(high + 0.05))
    assert low < 0.6 < high
    assert expected_range([0.0] * 40)[0] == 0.0
    assert expected_range([1.0] * 40)[1] == 1.0


def test_an_unchanged_environment_is_seldom_called_changed() -> None:
    """Both intervals cover with 95 %, so that they do not touch is rarer than either misses."""
    rng, changed = Random(1), 0
    for _ in range(200):
        known, fresh, before, after = ([float(rng.random() < 0.7) for _ in range(n)] for n in (40, 100, 40, 100))
        found = judge(loss_shown=False, serving=SideScores(known=known, fresh=fresh), former=SideScores(known=before, fresh=after))
        changed += found.kind == "changed"
    assert changed <= 2


def test_a_confirming_gate_is_short() -> None:
    assert confirming_settings(PROFILES["strict"]).nmax == min(CONFIRMING_ROUNDS, PROFILES["strict"].nmax)
