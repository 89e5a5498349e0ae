"""The stream of a daemon: when environments are measured, and when they become known."""

from __future__ import annotations

from pathlib import Path

from tests.agent.ended_jobs import CLOCK

from perdure.agent.config import Config
from perdure.agent.stream.feeding import StreamFeed
from perdure.memory.environments import list_environments, set_measured
from perdure.memory.store import create_store
from perdure.memory.tasks import finish_task, lease_tasks
from perdure.memory.trajectories.episodes import count

ADD, COMPARE = "perdure:add", "perdure:compare"
CONFIG = Config.model_validate(
    {"stream": {"stages": [{"name": "first", "environments": [ADD], "tasks": 1}, {"name": "then", "environments": [COMPARE]}]}}
)


def test_a_new_environment_is_measured_once_and_known_when_its_stage_begins(tmp_path: Path) -> None:
    with create_store(tmp_path / "home") as store:
        feed = StreamFeed(CONFIG)
        feed.open(store)
        (row,) = list_environments(store)
        assert (row.name, row.oracle, row.chance is not None) == (ADD, True, True)
        assert count(store) == 0, "no episode is kept of it"
        feed.refill(store, None)
        for _, lease in lease_tasks(store, "actor:1", 9, 60.0, CLOCK):
            finish_task(store, lease)
        feed.refill(store, None)
        second = list_environments(store)[1]
        assert (second.name, second.oracle) == (COMPARE, True)
        assert second.chance is not None
        assert 0.2 < second.chance < 0.8, "one of two answers is right"
        set_measured(store, ADD, 0.75, False)
        StreamFeed(CONFIG).open(store)
        assert [(row.chance, row.oracle) for row in list_environments(store)] == [(0.75, False), (second.chance, True)]
