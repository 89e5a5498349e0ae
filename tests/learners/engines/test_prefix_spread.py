"""Which server gets which prompt: groups stay together, episodes stay where they are, and no server gets too much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from perdure.envs.policy import Ids
from perdure.learners.engines.prefix_spread import SLACK, TOGETHER, PrefixSpread

MEMBERS = 8


def groups(count: int, shared: int = 90, own: int = 20, seed: int = 0) -> list[Ids]:
    """First prompts of groups, which share instructions."""
    drawn = Random(seed)
    instructions = tuple(drawn.randrange(1000) for _ in range(shared))
    return [instructions + tuple(drawn.randrange(1000) for _ in range(own)) for _ in range(count)]


def members(prompts: Sequence[Ids]) -> list[Ids]:
    return [prompt for prompt in prompts for _ in range(MEMBERS)]


def continued(prompts: Sequence[Ids], seed: int = 1) -> list[Ids]:
    """The prompts of the next turn: each with an answer and an observation of its own."""
    drawn = Random(seed)
    return [prompt + tuple(drawn.randrange(1000) for _ in range(7)) for prompt in prompts]


def test_members_of_a_group_stay_together_and_groups_are_spread_evenly() -> None:
    first = members(groups(8))
    assigned = PrefixSpread().assign(first, [0, 1])
    assert all(len(set(assigned[n : n + MEMBERS])) == 1 for n in range(0, len(first), MEMBERS))
    assert Counter(assigned) == {0: 32, 1: 32}


def test_the_turns_of_an_episode_stay_where_its_prompt_was_read() -> None:
    spread, prompts = PrefixSpread(), members(groups(8))
    before = spread.assign(prompts, [0, 1, 2])
    for turn in range(5):
        prompts = continued(prompts, seed=turn)
        order = Random(turn).sample(range(len(prompts)), len(prompts))
        after = spread.assign([prompts[i] for i in order], [0, 1, 2])
        assert dict(zip(order, after, strict=True)) == dict(enumerate(before))


def test_tasks_that_begin_after_others_go_where_there_is_least_to_do() -> None:
    spread, prompts = PrefixSpread(), members(groups(6))
    before = spread.assign(prompts, [0, 1])
    going_on = [prompt for prompt, at in zip(continued(prompts), before, strict=True) if at == 0]
    new = members(groups(3, seed=9))
    assigned = spread.assign([*going_on, *new], [0, 1])
    assert assigned[: len(going_on)] == [0] * len(going_on)
    assert Counter(assigned) == {0: 24, 1: 24}


def test_one_prompt_for_all_is_not_left_to_one_server() -> None:
    """As with a game whose first observation is always the same."""
    assigned = Counter(PrefixSpread().assign(groups(1) * 64, [0, 1, 2, 3]))
    assert sum(assigned.values()) == 64
    assert max(assigned.values()) == max(TOGETHER, SLACK * 64 / 4)
    assert Counter(PrefixSpread().assign(groups(1) * TOGETHER, [0, 1, 2, 3])) == {0: TOGETHER}


def test_what_a_server_had_goes_to_others_while_it_is_gone_and_new_tasks_come_back_to_it() -> None:
    spread, prompts = PrefixSpread(), members(groups(8))
    spread.assign(prompts, [0, 1])
    prompts = continued(prompts)
    assert set(spread.assign(prompts, [1])) == {1}
    prompts = continued(prompts, seed=2)[:32]
    assigned = spread.assign([*prompts, *members(groups(4, seed=5))], [0, 1])
    assert Counter(assigned) == {0: 32, 1: 32}
    assert assigned[:32] == [1] * 32, "server 1 has read these"


def test_what_was_sent_long_ago_is_forgotten() -> None:
    spread = PrefixSpread(remembered=10)
    for seed in range(50):
        spread.assign(groups(3, own=seed + 1, seed=seed), [0, 1])
    assert len(spread._sent) == 10
    assert sum(spread._lengths.values()) == 10
