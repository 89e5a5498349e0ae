"""Which old environments are replayed, with budgets and falls worked by hand."""

from __future__ import annotations

import math

import pytest

from perdure.learners.retention.replay_choice import ReplayCandidate, choose_replay, fall, replay_candidate
from perdure.memory.trajectories.play_records import NOTHING_PLAYED, PlayRecord


def record(episodes: int, successes: int, *, groups: int = 1, tokens: int = 0) -> PlayRecord:
    return PlayRecord(groups=groups, episodes=episodes, successes=successes, tokens=tokens)


def candidate(name: str, *, groups: int = 0, tokens: float = 10.0, fall: float = 0.0) -> ReplayCandidate:
    return ReplayCandidate(name=name, groups=groups, group_tokens=tokens, fall=fall)


def test_environments_take_turns_and_those_with_the_fewest_groups_begin() -> None:
    three = [candidate("a", groups=2), candidate("b", groups=1), candidate("c", groups=2)]
    assert choose_replay(three, 5, math.inf) == ["b", "a", "c", "b", "a"]
    assert choose_replay(three, 0, math.inf) == []
    assert choose_replay([], 3, math.inf) == []


def test_what_has_fallen_comes_first_and_gets_one_turn_more() -> None:
    four = [candidate("a"), candidate("b", fall=0.2), candidate("c", fall=0.09), candidate("d", fall=0.3)]
    assert choose_replay(four, 8, math.inf) == ["d", "b", "d", "b", "a", "c", "d", "b"]
    assert choose_replay(four, 2, math.inf) == ["d", "b"]


def test_tokens_run_out_before_groups_and_cheaper_environments_fill_the_rest() -> None:
    """Of 100 tokens the game takes 60, and a second one does not fit: the others share what is left."""
    game, short, word = candidate("game", tokens=60), candidate("short", tokens=10), candidate("word", tokens=15)
    assert choose_replay([game, short, word], 16, 100) == ["game", "short", "word", "short"]
    assert choose_replay([game, short, word], 3, 100) == ["game", "short", "word"]


def test_an_environment_that_costs_more_than_the_budget_is_replayed_when_its_turn_begins_a_batch() -> None:
    played = {"short": 0, "game": 0}
    batches = []
    for _ in range(4):
        both = [candidate("short", tokens=30, groups=played["short"]), candidate("game", tokens=90, groups=played["game"])]
        batches.append(choose_replay(both, 9, 60))
        played = {name: n + batches[-1].count(name) for name, n in played.items()}
    assert batches == [["short", "short"], ["game"], ["game"], ["short", "short"]]


def test_a_fallen_environment_has_the_tokens_first() -> None:
    assert choose_replay([candidate("a", tokens=40), candidate("b", tokens=50, fall=0.2)], 9, 100) == ["b", "b"]
    assert choose_replay([candidate("a", tokens=40), candidate("b", tokens=50)], 9, 100) == ["a", "b"]


def test_a_fall_by_hand() -> None:
    """From 3 of 4 to 2 of 8: .5, half of which is believed after 8 episodes; and three quarters after 24."""
    assert fall(record(4, 3), record(8, 2)) == 0.25
    assert fall(record(4, 3), record(24, 6)) == 0.375
    assert fall(record(4, 1), record(8, 6)) == -0.25
    assert fall(NOTHING_PLAYED, record(8, 0)) == fall(record(4, 4), NOTHING_PLAYED) == 0


def test_a_candidate_is_judged_by_its_last_batches_and_costs_what_it_cost_in_the_job() -> None:
    before = record(10, 8, tokens=1000)
    batches = [record(4, 0, tokens=100), record(4, 4, groups=2, tokens=120), record(4, 0, tokens=140)]
    assert replay_candidate("a", before, batches, 4) == ReplayCandidate(
        name="a", groups=4, group_tokens=pytest.approx(4 * 30), fall=pytest.approx(0.15)
    )
    assert replay_candidate("a", before, [], 4) == ReplayCandidate(name="a", groups=0, group_tokens=400, fall=0)


def test_without_live_play_the_first_batch_is_what_it_was() -> None:
    found = replay_candidate("a", NOTHING_PLAYED, [record(4, 4), record(8, 4), record(8, 0)], 4)
    assert found.fall == pytest.approx((1 - 0.25) * 16 / 24)
    assert replay_candidate("a", NOTHING_PLAYED, [], 4) == ReplayCandidate(name="a", groups=0, group_tokens=0, fall=0)
