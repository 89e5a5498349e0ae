"""Rewards that persons give: kept with their source, and written down."""

from __future__ import annotations

import math

import pytest
from tests.agent.changes.conftest import ANNA, rows
from tests.memory.conftest import ADD
from tests.memory.everything import CLOCK, leased_task, play

from perdure.agent.changes.judgements import MOST_LISTED, judge
from perdure.memory import tasks
from perdure.memory.changes import list_changes
from perdure.memory.errors import InputError
from perdure.memory.store import Store
from perdure.memory.trajectories.rewards import rewards_of


def test_an_episode_is_judged(full: Store) -> None:
    assert judge(full, ANNA, {2: 0.5}, source="anna") == {"source": "anna", "episodes": [2]}
    assert judge(full, ANNA, {2: -1.0}, source="anna", reason="looked twice") == {"source": "anna", "episodes": [2]}
    assert rewards_of(full, 2) == {"anna": -1.0}
    assert rows(full) == [("anna", "episode reward", "episode 2", None), ("anna", "episode reward", "episode 2", "looked twice")]
    assert list_changes(full)[0].arguments == {"source": "anna", "rewards": {"2": -1.0}}


def test_many_are_judged_together_or_not_at_all(full: Store) -> None:
    assert judge(full, ANNA, {1: 0.5, 2: 0.25}, source="judge")["episodes"] == [1, 2]
    with pytest.raises(InputError, match="episode 999 is not in this home"):
        judge(full, ANNA, {1: 1.0, 999: 1.0}, source="judge")
    assert rewards_of(full, 1)["judge"] == 0.5
    assert rows(full) == [("anna", "episode reward", "2 episodes", None)]


def test_of_very_many_the_row_keeps_a_hash(full: Store) -> None:
    for _, lease in tasks.lease_tasks(full, "actor", 9, 60.0, CLOCK):
        tasks.finish_task(full, lease)
    ids = play(full, leased_task(full), "many", [1.0] * (MOST_LISTED + 1), environment=ADD)
    judge(full, ANNA, dict.fromkeys(ids, 0.5), source="judge", key="k")
    asked = list_changes(full)[0].arguments
    assert asked["rewards"].keys() == {"episodes", "sha256"}
    assert asked["rewards"]["episodes"] == MOST_LISTED + 1
    with pytest.raises(InputError, match="the key 'k' stands for"):
        judge(full, ANNA, dict.fromkeys(ids, 0.25), source="judge", key="k")
    assert rewards_of(full, ids[0]) == {"judge": 0.5}


@pytest.mark.parametrize(
    ("rewards", "source"),
    [
        ({1: math.nan}, "anna"),
        ({1: math.inf}, "anna"),
        ({1: 1e13}, "anna"),
        ({999: 1.0}, "anna"),
        ({-1: 1.0}, "anna"),
        ({2**63: 1.0}, "anna"),
        ({10**30: 1.0}, "anna"),
        ({1: 1.0}, ""),
        ({1: 1.0}, "environment"),
        ({1: 1.0}, "py:module:Class"),
        ({1: 1.0}, "\ud800"),
        ({1: 1.0}, "s" * 10_000_000),
    ],
)
def test_what_is_no_judgement_is_refused_in_a_line(full: Store, rewards: dict[int, float], source: str) -> None:
    before = rewards_of(full, 1)
    with pytest.raises(InputError) as refused:
        judge(full, ANNA, rewards, source=source)
    assert len(str(refused.value)) < 300
    assert (rewards_of(full, 1), rows(full)) == (before, [])
