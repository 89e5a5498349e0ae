"""A page shows an episode whose turns are in a shard as it did before."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.memory.everything import fill

from perdure.agent.telemetry.home_numbers import read_numbers
from perdure.agent.web.evidence.episode_reading import episode_facts, turn_texts, whole_turn
from perdure.memory.errors import ShardLost
from perdure.memory.history.archive import archive
from perdure.memory.store import create_store


def test_an_episode_whose_turns_have_moved_is_read_the_same(tmp_path: Path) -> None:
    with create_store(tmp_path / "home") as store:
        fill(store)

        def shown() -> object:
            texts = [turn_texts(store, 3, first, most, longest) for first, most, longest in ((0, 9, 99), (1, 1, 99), (0, 2, 4), (3, 1, 99))]
            return episode_facts(store, 3), texts, [whole_turn(store, 3, n) for n in range(3)], read_numbers(store).turns

        before = shown()
        archive(store, 1e11, lambda line: None)
        assert shown() == before
        assert [turn.n for turn in turn_texts(store, 3, 0, 9, 99)] == [0, 1, 2]
        for file in (store.home / "history").iterdir():
            file.unlink()
        with pytest.raises(ShardLost, match="is missing"):
            turn_texts(store, 3, 0, 9, 99)
