"""Players as processes of their own, the journal as another, and a real store: what is played, and what is left after a death."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from tests.agent.cluster.head_place import WALK, Head, acknowledged_once, head_in, queue

from perdure.memory.store import open_store
from perdure.memory.trajectories.episodes import get_episode, list_episodes

pytestmark = pytest.mark.processes


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    with head_in(tmp_path) as head:
        yield head


def test_a_player_elsewhere_plays_live_tasks_as_the_actor_does(head: Head) -> None:
    queue(head, WALK, 3)
    head.start_journal()
    player = head.start_player()
    head.wait("all tasks", lambda: head.tasks("done") == 3)
    player.send_signal(signal.SIGTERM)
    assert player.wait(timeout=30) == 0
    with open_store(head.home) as store:
        played = [get_episode(store, entry.id) for entry in list_episodes(store, limit=99)]
        assert acknowledged_once(store) == []
    assert sorted((one.seed, one.member, len(one.turns)) for one in played) == [
        (seed, member, 1 + seed) for seed in (3, 4, 5) for member in range(4)
    ]
    assert {one.state for one in played} == {"completed"}
    assert all(turn.prompt_ids[: len(before.prompt_ids)] == before.prompt_ids for one in played for before, turn in pairwise(one.turns))
