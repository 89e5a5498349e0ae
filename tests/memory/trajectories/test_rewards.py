"""Later rewards: by source, all or none, beside the environment's own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tests.memory.conftest import Player

from perdure.memory.errors import InputError
from perdure.memory.store import Store
from perdure.memory.trajectories.episodes import get_episode
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.trajectories.rewards import NAMED, add_rewards, read_rewards, rewards_from, rewards_of, sources


@pytest.fixture
def played(player: Player) -> list[int]:
    return player.group(player.task(), "task-1", [1.0, 0.0, 1.0])


def test_a_reward_has_its_source_and_leaves_the_environments_alone(store: Store, played: list[int]) -> None:
    first, second, third = played
    assert sources(store) == []
    add_rewards(store, "judge-2", {first: -0.5, second: 2})
    add_rewards(store, "anna", {first: 0.25})
    assert rewards_of(store, first) == {"anna": 0.25, "judge-2": -0.5}
    assert rewards_of(store, third) == {}
    assert rewards_from(store, "judge-2", played) == {first: -0.5, second: 2.0}
    assert rewards_from(store, "nobody", played) == {}
    assert rewards_from(store, "judge-2", [second]) == {second: 2.0}
    assert sources(store) == ["anna", "judge-2"]
    assert [get_episode(store, episode).total_reward for episode in played] == [1.0, 0.0, 1.0]


def test_a_second_reward_of_a_source_replaces_the_first(store: Store, played: list[int]) -> None:
    add_rewards(store, "anna", {played[0]: 0.25, played[1]: 0.5})
    add_rewards(store, "anna", {played[0]: 0.75})
    assert rewards_from(store, "anna", played) == {played[0]: 0.75, played[1]: 0.5}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_return_is_a_finite_number(store: Store, played: list[int], value: float) -> None:
    with pytest.raises(InputError, match=f"episode {played[1]} is {value}: it must be a finite number"):
        add_rewards(store, "anna", {played[0]: 1.0, played[1]: value})
    assert sources(store) == []


@pytest.mark.parametrize("source", ["", " ", "environment", "py:judges:Strict"])
def test_names_that_learners_read_otherwise_are_no_sources(store: Store, played: list[int], source: str) -> None:
    with pytest.raises(InputError, match="cannot be a source of rewards"):
        add_rewards(store, source, {played[0]: 1.0})


def test_only_completed_episodes_are_judged_and_all_or_none(store: Store, clock, player: Player, played: list[int]) -> None:
    lease = player.task()
    (running,) = StoreJournal(store, clock).start([player.plan(lease, "task-2")])
    with pytest.raises(InputError, match=f"episode {running} is running: only completed ones get rewards"):
        add_rewards(store, "anna", {played[0]: 1.0, running: 1.0})
    with pytest.raises(InputError, match="episode 99 is not in this home"):
        add_rewards(store, "anna", {played[0]: 1.0, 99: 1.0})
    assert sources(store) == []


def test_rewards_go_with_their_episode(store: Store, played: list[int]) -> None:
    add_rewards(store, "anna", dict.fromkeys(played, 1.0))
    store.rows("DELETE FROM turn WHERE episode = ?", (played[0],))
    store.rows("DELETE FROM episode WHERE id = ?", (played[0],))
    assert rewards_from(store, "anna", played) == dict.fromkeys(played[1:], 1.0)


def test_a_file_of_rewards_is_read(store: Store, played: list[int], tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text(f'{{"episode": {played[1]}, "reward": -1}}\r\n\n{{"reward": 0.5, "episode": {played[0]}}}')
    assert read_rewards(store, file) == {played[1]: -1.0, played[0]: 0.5}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "is not of the form"),
        ("[1, 2]", "is not of the form"),
        ('{"episode": 1}', "is not of the form"),
        ('{"episode": 1, "reward": 1, "source": "x"}', "is not of the form"),
        ('{"episode": "1", "reward": 1}', "episode '1' is not the number of an episode"),
        ('{"episode": true, "reward": 1}', "episode True is not the number of an episode"),
        ('{"episode": 0, "reward": 1}', "episode 0 is not the number of an episode"),
        ('{"episode": 1e3, "reward": 1}', "episode 1000.0 is not the number of an episode"),
        (f'{{"episode": {2**63}, "reward": 1}}', "episode 9223372036854775808 is not the number of an episode"),
        ('{"episode": 1, "reward": null}', "reward None is not a finite number"),
        ('{"episode": 1, "reward": "good"}', "reward good is not a finite number"),
        ('{"episode": 1, "reward": NaN}', "reward nan is not a finite number"),
        ('{"episode": 1, "reward": 1e999}', "reward inf is not a finite number"),
        (f'{{"episode": 1, "reward": 1{"0" * 400}}}', f"reward 1{'0' * 39} is not a finite number"),
        ('{"episode": 3, "reward": 1}', "episode 3 is on line 1 already"),
        ('{"episode": 99, "reward": 1}', "episode 99 is not in this home"),
    ],
)
def test_a_bad_line_is_named_by_its_number(store: Store, played: list[int], tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text(f'{{"episode": 3, "reward": 1}}\n{line}\n')
    with pytest.raises(InputError, match=f"line 2: {message}" if message.startswith("is not") else message) as error:
        read_rewards(store, file)
    assert "line 2: " in str(error.value)
    assert "line 1: " not in str(error.value)
    assert str(error.value).endswith("Nothing was written")


def test_of_many_bad_lines_the_first_are_named(store: Store, played: list[int], tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text("x\n" * 12)
    with pytest.raises(InputError, match=f"line {NAMED}: .*; and {12 - NAMED} more lines"):
        read_rewards(store, file)


def test_a_missing_or_empty_file_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, message in (
        ("empty", "has no rewards"),
        ("binary", "is not UTF-8"),
        ("none", "cannot be read: No such file"),
        (".", "cannot be"),
    ):
        with pytest.raises(InputError, match=message):
            read_rewards(store, tmp_path / name)
