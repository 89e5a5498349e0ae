"""The planner as a whole: what goes before what, and how nothing is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.agent.planning.lives import ADD, SORT, SPELL, environment, learned, leg, life, rate, verdict

from perdure.agent.planning.life_so_far import Standing
from perdure.agent.planning.next_step import next_step
from perdure.agent.planning.step_kinds import GateNext, LearnNext, NothingNext

LEARNABLE = environment(ADD, rate(24, 8))
MASTERED = environment(SORT, rate(64, 0))
STUCK = replace(environment(SPELL, rate(0, 0)), oracle=True)
BELOW = replace(environment(SORT, rate(60, 4)), standing=Standing(difference=-0.1, pairs=30))
NO_GAIN = verdict("reject", "v1", gain="failed", reason="no gain: perdure:add (+0.00 over 60 pairs)")


def learns(step: object) -> LearnNext:
    assert isinstance(step, LearnNext)
    return step


def test_a_verdict_is_followed_before_anything_else() -> None:
    unclear = verdict("inconclusive", "v1", sort=leg(-0.04, 192, "not shown"))
    step = next_step(life(learned(1, [ADD], unclear), environments=[LEARNABLE, STUCK, BELOW]))
    assert isinstance(step, GateNext)


def test_then_comes_the_target_that_promises_most_and_why_the_verdict_is_not_followed() -> None:
    step = learns(next_step(life(learned(1, [ADD], NO_GAIN), environments=[STUCK, BELOW, LEARNABLE])))
    assert (step.targets, step.aim, step.start, step.follows) == ((ADD,), "gain", None, None)
    assert step.unfollowed == "nothing follows the verdict on v1: no gain: perdure:add (+0.00 over 60 pairs)"


def test_then_a_first_success_and_then_a_repair() -> None:
    assert learns(next_step(life(environments=[BELOW, STUCK]))).aim == "first success"
    step = learns(next_step(life(environments=[BELOW])))
    assert (step.targets, step.aim, step.start) == ((SORT,), "repair", None)
    assert step.why == "no target is left, and v0 is below its anchors in perdure:sort (10 points)"


def test_where_live_play_is_above_the_ceiling_no_repair_could_show_a_gain() -> None:
    free = replace(BELOW, rates=(rate(61, 3),))  # .953
    assert isinstance(next_step(life(environments=[free])), NothingNext)
    left = replace(BELOW, rates=(), streamed=False)
    assert learns(next_step(life(environments=[MASTERED, replace(left, name=SPELL)]))).targets == (SPELL,), "nor is it known"


def test_a_repair_is_not_tried_a_third_time_while_a_version_serves() -> None:
    repair = [learned(n, [SORT], verdict("reject", f"v{n}", gain="failed"), aim="repair") for n in (2, 1)]
    step = next_step(life(*repair, environments=[BELOW]))
    assert step == NothingNext(
        why="nothing left to learn: perdure:sort succeeds in 94%, which leaves too little to gain, "
        "and is 10 points below its anchor and could not be repaired",
        unfollowed="nothing follows the verdict on v2: as the test wants it",
    )


def test_nothing_left_to_learn_is_a_state_with_the_reason_of_each_environment() -> None:
    refused = [learned(n, [ADD], verdict("reject", f"v{n}", gain="failed")) for n in (5, 4, 3, 2, 1)]
    step = next_step(life(*refused, environments=[LEARNABLE, MASTERED, replace(STUCK, oracle=False)]))
    assert isinstance(step, NothingNext)
    assert step.why == (
        "nothing left to learn: perdure:add is set aside: its jobs led to no promotion (3.4 refusals, from 3.2 on); "
        "perdure:sort succeeds in 100%, which leaves too little to gain; perdure:spell never succeeds and has neither an oracle nor "
        "imported traces: make its tasks easier, add shots=3, or import traces"
    )
    assert learns(next_step(life(*refused, environments=[LEARNABLE], fruitless=2))).targets == (ADD,), "it is no loop, and no end either"


@pytest.mark.parametrize(
    ("environments", "why"),
    [
        ([replace(LEARNABLE, streamed=False)], "the stream has no environments; name some under [stream] in perdure.toml"),
        ([environment(ADD), environment(SORT)], "the serving version has completed no episode yet"),
        ([environment(ADD, rate(24, 8), rate(0, 0, 0, 0))], "the serving version has completed no episode yet"),
        ([environment(ADD, rate(1, 1, 8, 1))], "perdure:add has only 8 episodes and needs 16"),
    ],
)
def test_before_enough_was_played_nothing_is_learnable_yet(environments: list, why: str) -> None:  # type: ignore[type-arg]
    assert next_step(life(environments=environments)) == NothingNext(why=f"nothing is learnable yet: {why}")


def test_an_environment_that_turns_free_or_impossible_ends_in_a_sentence() -> None:
    free, impossible = environment(ADD, rate(20, 8), rate(64, 0)), environment(SORT, rate(20, 8), rate(0, 0, 80, 10))
    step = next_step(life(environments=[free, replace(impossible, oracle=False)]))
    assert isinstance(step, NothingNext)
    assert "perdure:add succeeds in 92%, which leaves too little to gain" in step.why  # (64 + 8 x 20 / 64) / 72
    assert "perdure:sort never succeeds and has neither" in step.why
