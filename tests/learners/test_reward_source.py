"""Learning from rewards that people or programs gave afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from perdure.learners.reward_source import rewarder
from perdure.memory import environments, versions
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.leases import BootClock
from perdure.memory.records import Ending, Episode, EpisodePlan, VersionRef
from perdure.memory.store import Store, create_store
from perdure.memory.tasks import add_tasks, lease_tasks
from perdure.memory.trajectories.episodes import get_episode
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.trajectories.rewards import add_rewards

ADD = "perdure:add"


class Judge:
    """Gives what it is told, in order."""

    given: ClassVar[list[float | None]] = []

    def rewards(self, episodes: Sequence[Episode]) -> list[float | None]:
        return self.given[: len(episodes)]


def played(store: Store) -> list[int]:
    environments.register(store, ADD, 0.5, 0.0, 1.0)
    versions.add_initial(store, "tiny", "hash-of-tiny")
    add_tasks(store, ADD, [7], 3, "stream")
    ((_, lease),) = lease_tasks(store, "actor", 1, 60.0, BootClock())
    journal = StoreJournal(store, BootClock())
    plans = [
        EpisodePlan(environment=ADD, seed=7, group="g", member=n, purpose="live", sampler=VersionRef("v0"), temperature=1.0, lease=lease)
        for n in range(3)
    ]
    ids = journal.start(plans)
    journal.finish(
        [Ending(episode=episode, state="completed", stop_reason="terminated", total_reward=1.0, success=True, score=1.0) for episode in ids]
    )
    return ids


def test_rewards_of_a_source_stand_for_the_environments_and_what_is_not_judged_is_left_out(tmp_path: Path) -> None:
    with create_store(tmp_path) as store:
        ids = played(store)
        add_rewards(store, "anna", {ids[0]: 0.5, ids[1]: 0.25})
        episodes = [get_episode(store, episode) for episode in ids]
        found = rewarder(store, "anna")(episodes)
        assert [(one.state, one.total_reward, one.success) for one in found] == [
            ("completed", 0.5, True),
            ("completed", 0.25, False),
            ("aborted", 1.0, True),
        ]
        assert rewarder(store, "environment", played_before=False)(episodes) == episodes


def test_learners_see_returns_by_the_stated_range_from_every_source(tmp_path: Path) -> None:
    """From -200 to 8: -200 is 0, -96 is .5, 8 is 1, and so is what an environment pays above; what others pay above counts.

    Success that the environment stated is no score here.
    """
    with create_store(tmp_path) as store:
        ids = played(store)
        environments.register(store, ADD, 0.5, -200.0, 8.0)
        returns = dict(zip(ids, (-200.0, -96.0, 60.0), strict=True))
        episodes = [replace(get_episode(store, id_), total_reward=total, success=False, score=0.0) for id_, total in returns.items()]
        assert [episode.score for episode in rewarder(store, "environment")(episodes)] == [0.0, 0.5, 1.0]
        add_rewards(store, "anna", returns)
        by_anna = rewarder(store, "anna")([get_episode(store, id_) for id_ in ids])
        assert [(episode.score, episode.success) for episode in by_anna] == [(0.0, False), (0.5, False), (1.25, True)]


def test_a_source_that_gave_nothing_or_cannot_have_is_bad_input(tmp_path: Path) -> None:
    with create_store(tmp_path) as store:
        ids = played(store)
        with pytest.raises(InputError, match="rewards=anna: this source has no rewards; there are no stored rewards"):
            rewarder(store, "anna")
        add_rewards(store, "judge-2", {ids[0]: 0.5})
        with pytest.raises(InputError, match="there are rewards of judge-2"):
            rewarder(store, "anna")
        with pytest.raises(InputError, match="stored rewards exist for stored episodes only; use them with trace-sft"):
            rewarder(store, "judge-2", played_before=False)


def test_found_an_episode_that_a_reward_model_does_not_judge_is_left_out(tmp_path: Path) -> None:
    with create_store(tmp_path) as store:
        episodes = [get_episode(store, episode) for episode in played(store)]
        Judge.given = [0.5, None, 0.25]
        found = rewarder(store, f"py:{__name__}:Judge")(episodes)
        assert [(one.state, one.total_reward) for one in found] == [("completed", 0.5), ("aborted", 1.0), ("completed", 0.25)]


@pytest.mark.parametrize("reward", [1e308, -1e13, float("nan"), float("inf"), "1"])
def test_found_a_reward_of_a_model_that_is_no_use_is_named_with_its_episode(tmp_path: Path, reward: float) -> None:
    with create_store(tmp_path) as store:
        episodes = [get_episode(store, episode) for episode in played(store)]
        Judge.given = [0.5, reward, 0.25]
        with pytest.raises(
            RuntimeFailure, match=f"for episode {episodes[1].id}: a reward must be a finite number of at most 1e[+]12 in size"
        ):
            rewarder(store, f"py:{__name__}:Judge")(episodes)
