"""How much an environment promises as a target."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from tests.agent.planning.lives import ADD, SORT, SPELL, environment, learned, life, rate, verdict

from perdure.agent.planning.life_so_far import EnvironmentNow, LifeSoFar
from perdure.agent.planning.worth import (
    MIN_EPISODES,
    Estimate,
    choose,
    estimate,
    is_chance,
    obstacle,
    prospects,
    reason,
)

UNPLAYED = rate(0, 0, 0, 0)


def chosen(*environments: EnvironmentNow, now: LifeSoFar | None = None) -> str | None:
    found = choose(prospects(replace(now or life(), environments=environments)))
    return found.name if found else None


def refusals(target: str, count: int) -> LifeSoFar:
    return life(*(learned(n, [target], verdict("reject", f"v{n}", gain="failed")) for n in range(count, 0, -1)))


# --- what live play says ---


def test_environment_with_most_headroom_among_equally_mixed_is_chosen() -> None:
    (found,) = [p for p in prospects(life(environments=[environment(ADD, rate(48, 8)), environment(SORT, rate(16, 8))])) if p.name == SORT]
    assert chosen(environment(ADD, rate(48, 8)), environment(SORT, rate(16, 8))) == SORT
    assert reason(found) == "perdure:sort succeeds in 25% of its live episodes, and 100% of its groups are mixed"
    assert found.worth == pytest.approx(0.25 * 0.75**2 * 0.25)


def test_mixed_groups_count_as_much_as_headroom() -> None:
    """Nearly all groups of SORT are equal: most of its episodes would teach nothing."""
    assert chosen(environment(ADD, rate(40, 8)), environment(SORT, rate(2, 1))) == ADD


def test_what_is_now_won_and_now_lost_goes_before_what_is_hardly_ever_won() -> None:
    assert chosen(environment(ADD, rate(6, 5)), environment(SORT, rate(20, 5))) == SORT


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (rate(60, 4), "succeeds in 94%, which leaves too little to gain"),
        (rate(0, 0), "succeeds in 0%, and 0% of its groups are mixed: episodes of one task score the same, and teach nothing"),
        (rate(4, 1, MIN_EPISODES - 1, 1), "has only 15 episodes and needs 16"),
    ],
)
def test_what_stands_in_the_way_is_said(row: object, why: str) -> None:
    (found,) = prospects(life(environments=[environment(ADD, row)]))  # type: ignore[arg-type]
    assert obstacle(found) == why
    assert choose([found]) is None


def test_what_was_never_played_is_no_target() -> None:
    """A row of rates without groups is possible for a moment, while a group is half counted."""
    never, half_counted = prospects(life(environments=[environment(ADD), environment(SORT, rate(8, 0, 16, 0))]))
    assert obstacle(never) == "has only 0 episodes and needs 16"
    assert obstacle(half_counted) is not None


def test_only_environments_of_the_stream_are_chosen() -> None:
    assert chosen(replace(environment(ADD, rate(8, 8)), streamed=False), environment(SORT, rate(40, 4))) == SORT


# --- older versions as a prior ---


def test_older_rates_weigh_as_much_as_eight_episodes() -> None:
    """8 of 64 episodes and half of 8 groups are a prior of 8 episodes, one of them won, and of one group, half mixed."""
    assert estimate([rate(8, 4), rate(12, 3, 24, 3)]) == Estimate(episodes=32.0, success=13 / 32, groups=4.0, mixed=3.5 / 4)


def test_without_a_limit_the_episodes_of_all_versions_add_up() -> None:
    assert estimate([rate(4, 2, 10, 5), rate(3, 1, 6, 2)], inf) == Estimate(
        episodes=16, success=7 / 16, groups=7, mixed=pytest.approx(3 / 7)
    )


def test_a_prior_of_fewer_episodes_weighs_as_much_as_it_has() -> None:
    assert estimate([rate(4, 1, 4, 1), rate(0, 0, 12, 3)]) == Estimate(episodes=16.0, success=0.25, groups=4.0, mixed=0.25)


def test_a_version_without_episodes_hands_its_prior_on() -> None:
    assert estimate([UNPLAYED, rate(32, 8), UNPLAYED]) == Estimate(episodes=8.0, success=0.5, groups=1.0, mixed=1.0)
    assert estimate([UNPLAYED, UNPLAYED]) is None
    assert estimate([]) is None


def test_with_forty_environments_the_first_look_after_a_promotion_is_not_in_vain() -> None:
    """Eight episodes each are too few by themselves."""
    found = estimate([rate(20, 8), rate(2, 1, 8, 1)])
    assert found is not None
    assert found.episodes == MIN_EPISODES
    assert chosen(environment(ADD, rate(20, 8), rate(2, 1, 8, 1)), environment(SORT, rate(2, 1, 8, 1))) == ADD


# --- what its jobs have brought ---


def test_a_target_that_is_refused_gives_way_to_another_with_signal() -> None:
    """ADD is worth .125 x .875^2 = .096 before its jobs count, SORT 1/2 x .625 x .375^2 = .044: 1/4 of it is .011."""
    both = [environment(ADD, rate(8, 8)), environment(SORT, rate(40, 4))]
    assert chosen(*both, now=refusals(ADD, 1)) == SORT  # .096 / 9 = .0106
    assert chosen(environment(ADD, rate(16, 8)), both[1], now=refusals(ADD, 1)) == ADD  # .141 / 9 = .0156
    assert chosen(environment(ADD, rate(16, 8)), both[1], now=refusals(ADD, 2)) == SORT  # .141 / 14.4 = .0097
    assert chosen(both[0], environment(SORT, rate(64, 0)), now=refusals(ADD, 2)) == ADD


def test_after_five_refusals_in_a_row_a_target_is_set_aside_and_says_so() -> None:
    only = environment(ADD, rate(24, 8))
    assert chosen(only, now=refusals(ADD, 4)) == ADD
    assert chosen(only, now=refusals(ADD, 5)) is None
    (found,) = prospects(replace(refusals(ADD, 5), environments=(only,)))
    assert obstacle(found) == "is set aside: its jobs led to no promotion (3.4 refusals, from 3.2 on)"
    assert chosen(only, now=replace(refusals(ADD, 5), fruitless=2)) == ADD


def test_its_jobs_so_far_are_in_the_reason() -> None:
    (found,) = prospects(replace(refusals(ADD, 2), environments=(environment(ADD, rate(24, 8)),)))
    assert reason(found).endswith("; its jobs so far: 0.0 promotions and 1.8 refusals, the latest counted most")


def test_a_job_that_takes_four_times_as_long_must_promise_almost_three_times_as_much() -> None:
    slow = learned(3, [ADD], verdict("promote", "v3"), seconds=80.0)
    others = [learned(2, [SORT], verdict("promote", "v2"), seconds=20.0), learned(1, [SPELL], verdict("promote", "v1"), seconds=20.0)]
    same = [environment(name, rate(24, 8)) for name in (ADD, SORT)]
    worth = {prospect.name: prospect.worth for prospect in prospects(life(slow, *others, environments=same))}
    assert worth[SORT] == pytest.approx(2.8284 * worth[ADD], rel=1e-4)  # 4^.75


# --- chance ---


@pytest.mark.parametrize(
    ("chance", "won", "expected"),
    [
        (1 / 3, 21, True),  # 21 of 64 is .328
        (1 / 3, 28, True),  # .4375; the error is sqrt(2 / 9 / 64) = .059, twice that .118
        (1 / 3, 30, False),  # .469
        (1 / 3, 13, False),  # .203: worse than chance is not chance
        (0.0, 0, False),
        (None, 21, False),
    ],
)
def test_a_rate_within_two_errors_of_chance_is_not_skill(chance: float | None, won: int, expected: bool) -> None:
    it = replace(environment(ADD, rate(won, 8)), chance=chance)
    assert is_chance(it, estimate(it.rates)) is expected


def test_chance_counts_as_one_refusal_in_advance() -> None:
    game = replace(environment(ADD, rate(21, 8)), chance=1 / 3)
    (found,) = prospects(life(environments=[game]))
    assert (found.by_chance, found.record.refusals) == (True, 1.0)
    assert "so does chance, which counts as a refusal" in reason(found)
    assert chosen(game, environment(SORT, rate(40, 8))) == SORT  # .148 / 9 = .016 beside .088 / 4 = .022
    assert chosen(game, now=refusals(ADD, 2)) == ADD
    assert chosen(game, now=refusals(ADD, 3)) is None, "2.44 + 1 is above 3.2"


def test_ties_go_to_what_was_registered_first() -> None:
    assert chosen(environment(SORT, rate(24, 8)), environment(ADD, rate(24, 8))) == SORT
