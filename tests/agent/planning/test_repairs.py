"""Which environments stand below their anchors."""

from __future__ import annotations

from dataclasses import replace

from tests.agent.planning.lives import ADD, SORT, SPELL, environment, learned, leg, life, verdict

from perdure.agent.planning.life_so_far import Standing, standing_of
from perdure.agent.planning.repairs import (
    below_anchors,
    candidate_below,
    in_points,
    repairs_without_promotion,
    serving_below,
    shortfall,
)
from perdure.memory.contracts.results import Leg


def test_a_shortfall_is_the_mean_of_the_pairs_below_zero() -> None:
    assert shortfall(Standing(difference=-0.06, pairs=20)) == 0.06
    assert shortfall(Standing(difference=0.2, pairs=100)) == 0.0


def test_more_than_three_points_are_below() -> None:
    at, beyond = Standing(difference=-0.03, pairs=30), Standing(difference=-0.031, pairs=30)
    assert below_anchors({ADD: at, SORT: beyond, SPELL: None}) == {SORT: 0.031}


def test_of_a_candidate_all_played_comparisons_of_known_environments_count() -> None:
    legs = {"add": leg(-0.2, 30, "passed"), "sort": Leg(state="vacuous"), "retired": leg(-0.9, 90, "failed")}
    assert candidate_below(verdict("reject", "v1", **legs), [ADD, SORT]) == {ADD: 0.2}
    assert standing_of(Leg(state="vacuous")) is None
    assert standing_of(leg(-0.2, 30)) == Standing(difference=-0.2, pairs=30)


def test_of_the_serving_version_what_left_the_stream_counts_too() -> None:
    left = replace(environment(SORT), streamed=False, standing=Standing(difference=-0.2, pairs=10))
    assert serving_below(life(environments=[environment(ADD), left])) == {SORT: 0.2}


def test_repairs_count_until_the_next_promotion() -> None:
    repair = learned(3, [ADD, SORT], verdict("reject", "v3"), aim="repair")
    broken = learned(4, [SORT], None, aim="repair")
    other = learned(5, [ADD], verdict("reject", "v5"))
    assert repairs_without_promotion(life(other, broken, repair), [SORT]) == 2
    assert repairs_without_promotion(life(other, broken, repair), [ADD]) == 1
    assert repairs_without_promotion(life(learned(6, [SPELL], verdict("promote", "v6")), broken, repair), [SORT]) == 0


def test_the_largest_shortfall_is_named_first() -> None:
    assert in_points({ADD: 0.049, SORT: 0.24}) == "perdure:sort (24 points), perdure:add (5)"
