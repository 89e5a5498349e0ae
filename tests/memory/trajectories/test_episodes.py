"""What is read of episodes: lists, rates, counts."""

from __future__ import annotations

import dataclasses
import random
import time
from itertools import pairwise

import pytest
from tests.results import learn_result

from perdure.memory import jobs, tasks
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.errors import InputError, UnknownError
from perdure.memory.records import VersionRef
from perdure.memory.schema import COUNT_RATES
from perdure.memory.store import Store
from perdure.memory.trajectories import episodes
from perdure.memory.trajectories.journal import StoreJournal

ADD, SORT = "perdure:add", "perdure:sort?numbers=3"


def played(store: Store, player, group: str, rewards: list[float]) -> list[int]:
    lease = player.task()
    ids: list[int] = player.group(lease, group, rewards)
    tasks.finish_task(store, lease)
    return ids


def test_rates_count_groups_that_differ(store: Store, player) -> None:
    played(store, player, "a", [1.0, 0.0, 0.0])
    played(store, player, "b", [1.0, 1.0, 1.0])
    played(store, player, "c", [0.0, 0.0, 0.25])
    assert episodes.success_rates(store, "v0") == {ADD: episodes.RateRow(episodes=9, successes=4, groups=3, mixed_groups=2)}
    assert episodes.success_rates(store, "v0")[ADD].as_json()["success_rate"] == 4 / 9
    assert episodes.counts(store) == {"episodes": 9, "turns": 9}


def test_rates_are_what_counting_all_episodes_comes_to(store: Store, clock, player, add_version) -> None:
    draw, other = random.Random(0), add_version()
    writer = StoreJournal(store, clock)
    for number in range(40):
        lease = player.task()
        versions_of = [VersionRef(draw.choice(["v0", other])) for _ in range(4)]
        plans = [
            player.plan(lease, f"g{number}", member, environment=draw.choice([ADD, SORT]), sampler=versions_of[member])
            for member in range(4)
        ]
        for episode in writer.start(plans):
            ending = player.ending(episode, reward=draw.choice([0.0, 1.0]))
            if draw.random() < 0.2:
                ending = dataclasses.replace(ending, state="aborted", stop_reason="interrupted")
            writer.finish([ending])
        tasks.finish_task(store, lease)
    counted = [tuple(row) for row in store.rows("SELECT * FROM rate")]
    assert len(counted) == 4
    store.conn.execute("DELETE FROM rate")
    store.conn.execute(COUNT_RATES)
    assert [tuple(row) for row in store.rows("SELECT * FROM rate")] == counted


def test_failures_of_the_environment_and_interruptions_are_never_scored(store: Store, clock, player) -> None:
    lease = player.task()
    writer = StoreJournal(store, clock)
    good, broken, cut = writer.start([player.plan(lease, "g", member) for member in range(3)])
    writer.finish(
        [
            player.ending(good),
            dataclasses.replace(player.ending(broken), state="env_error", stop_reason="error", error="reward is 'Bad action'"),
            dataclasses.replace(player.ending(cut), state="aborted", stop_reason="interrupted"),
        ]
    )
    tasks.finish_task(store, lease)
    assert episodes.success_rates(store, "v0") == {ADD: episodes.RateRow(episodes=1, successes=1, groups=1, mixed_groups=0)}
    assert episodes.completed_members(store, ["g", "h"]) == {"g": frozenset({0}), "h": frozenset()}
    assert [found.state for found in episodes.list_episodes(store)] == ["aborted", "env_error", "completed"]


def test_scores_of_a_group_are_those_of_its_last_ended_attempts(store: Store, clock, player) -> None:
    jobs.add_job(store, "k", [ADD], LearnOrder(learner="grpo"))
    found = jobs.lease_job(store, "me", 60, clock)
    assert found is not None
    lease, writer = found[1], StoreJournal(store, clock)
    plans = [player.plan(lease, "check", member, purpose="probe") for member in (0, 1, 2, 1, 3)]
    won, broken, cut, again, _ = writer.start(plans)
    writer.finish(
        [
            player.ending(won),
            dataclasses.replace(player.ending(broken), state="env_error", stop_reason="error"),
            dataclasses.replace(player.ending(cut), state="aborted", stop_reason="interrupted"),
        ]
    )
    assert episodes.scores_of_groups(store, lease.subject, ["check", "none"]) == {"check": {0: 1.0, 1: None}, "none": {}}
    writer.finish([dataclasses.replace(player.ending(again), score=0.25)])
    assert episodes.scores_of_groups(store, lease.subject, ["check"]) == {"check": {0: 1.0, 1: 0.25}}
    assert episodes.scores_of_groups(store, lease.subject + 1, ["check"]) == {"check": {}}


def test_live_episodes_are_counted_since_a_moment_and_since_the_last_learning_job(store: Store, clock, player) -> None:
    played(store, player, "a", [1.0, 0.0])
    assert episodes.live_episodes(store, "v0", 0.0) == 2
    assert episodes.live_episodes(store, "v1", 0.0) == 0
    assert episodes.live_episodes(store, "v0", time.time()) == 0
    jobs.add_job(store, "one", [ADD], LearnOrder(learner="grpo"))
    leased = jobs.lease_job(store, "learner", 60, clock)
    assert leased is not None
    jobs.finish_job(store, leased[1], learn_result(None), None)
    assert episodes.live_episodes(store, "v0", 0.0) == 0
    played(store, player, "b", [1.0])
    assert episodes.live_episodes(store, "v0", 0.0) == 1


def test_a_clock_that_was_set_back_stops_no_count(store: Store, clock, player) -> None:
    played(store, player, "a", [1.0, 0.0])
    jobs.add_job(store, "one", [ADD], LearnOrder(learner="grpo"))
    leased = jobs.lease_job(store, "learner", 60, clock)
    assert leased is not None
    player.group(leased[1], "job", [1.0], purpose="learn")
    jobs.finish_job(store, leased[1], learn_result(None), None)
    with store.write() as conn:
        conn.execute("UPDATE job SET finished_at = finished_at + 86400")
    assert episodes.live_episodes(store, "v0", 0.0) == 0
    played(store, player, "b", [1.0])
    assert episodes.live_episodes(store, "v0", 0.0) == 1
    assert episodes.live_episodes(store, "v0", time.time() + 86400) == 1


def test_what_was_played_in_a_run(store: Store, player) -> None:
    before = played(store, player, "a", [1.0, 0.0])
    played(store, player, "b", [1.0, 0.0, 1.0])
    row = episodes.LiveCount(environment=ADD, episodes=3, successes=2, not_counted=0)
    assert episodes.played_after(store, before[-1]) == [row]
    assert episodes.played_after(store, 999) == []


def test_the_list_is_the_latest_first_and_filtered(store: Store, player) -> None:
    played(store, player, "a", [1.0] * 5)
    found = episodes.list_episodes(store, environment=ADD, version="v0", limit=3)
    assert [summary.id for summary in found] == [5, 4, 3]
    assert all(later.id > earlier.id for later, earlier in pairwise(found))
    assert episodes.list_episodes(store, environment="perdure:none") == []
    shown = found[0].as_json()
    assert (shown["id"], shown["sampler"], shown["success"], shown["turns"]) == (5, "v0", True, 1)
    assert shown["started"].endswith("+00:00")


def test_an_episode_that_is_not_there(store: Store, player) -> None:
    with pytest.raises(UnknownError, match="no episode 1; there are none yet"):
        episodes.get_episode(store, 1)
    played(store, player, "a", [1.0])
    with pytest.raises(UnknownError, match="no episode 7; the latest is 1"):
        episodes.get_episode(store, 7)
    with pytest.raises(UnknownError):
        episodes.get_episode(store, 2**70)


def test_a_limit_beyond_all_numbers_is_bad_input(store: Store) -> None:
    with pytest.raises(InputError, match="too large"):
        episodes.list_episodes(store, limit=2**70)
