"""Tasks as persons add them: of environments that the home knows, without loading code."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.agent.changes.conftest import ANNA, HERE, configured, rows
from tests.memory.conftest import ADD

from perdure.agent.changes.environment_use import retire
from perdure.agent.changes.task_queue import MOST_TASKS, add_tasks
from perdure.agent.config_file import LoadedConfig
from perdure.envs.seeds import SPLITS
from perdure.memory import tasks
from perdure.memory.changes import Who
from perdure.memory.environments import list_environments
from perdure.memory.errors import Conflict, InputError, UnknownError
from perdure.memory.stages import Stage, StageShare, set_stages
from perdure.memory.store import Store

LOADED = configured(play={"members": 3})


def test_tasks_are_added_with_their_seeds(full: Store) -> None:
    added = add_tasks(full, LOADED, ANNA, ADD, seed=40, count=3, reason="a look")
    assert [(one["environment"], one["seed"], one["members"], one["state"], one["source"]) for one in added] == [
        (ADD, seed, 3, "queued", "person") for seed in (40, 41, 42)
    ]
    assert added == [one.as_json() for one in reversed(tasks.list_tasks(full, 3))]
    assert rows(full) == [("anna", "task add", ADD, "a look")]


def test_without_a_seed_they_are_drawn_from_those_of_training(full: Store) -> None:
    seeds = [one["seed"] for one in add_tasks(full, LOADED, ANNA, ADD, count=200)]
    assert len(set(seeds)) > 190
    assert all(seed in SPLITS["train"] for seed in seeds)


def test_the_same_request_again_draws_no_other_seeds(full: Store) -> None:
    first = add_tasks(full, LOADED, ANNA, ADD, count=2, key="k")
    assert add_tasks(full, LOADED, ANNA, ADD, count=2, key="k") == first
    assert len(rows(full)) == 1
    with pytest.raises(Conflict, match="the key 'k' stands for change 2, task add"):
        add_tasks(full, LOADED, ANNA, ADD, count=3, key="k")


@pytest.mark.parametrize(
    ("seed", "count", "says"),
    [
        (-1, 1, "seeds of tasks are 0 to"),
        (2**31 + 5, 1, "seeds of tasks are 0 to"),
        (10**30, 1, "seeds of tasks are 0 to"),
        (len(SPLITS["train"]) - 1, 2, "seeds of tasks are 0 to"),
        (1, 0, "0 tasks at once"),
        (1, -5, "-5 tasks at once"),
        (None, MOST_TASKS + 1, "100001 tasks at once"),
        (1, 10**18, "tasks at once"),
    ],
)
def test_seeds_and_numbers_that_are_none_are_refused(full: Store, seed: int | None, count: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        add_tasks(full, LOADED, ANNA, ADD, seed=seed, count=count)
    assert rows(full) == []


@pytest.mark.parametrize("by", [ANNA, HERE, Who(name="token", via="api")])
@pytest.mark.parametrize("name", ["perdure:nothing", "", "py:marked:Marked", "gym:marked:Marked-v0", "\ud800", "\0", "e" * 10_000_000])
def test_no_name_loads_code_that_the_home_does_not_know(
    full: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: Who, name: str
) -> None:
    mark = tmp_path / "it was imported"
    (tmp_path / "marked.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = list_environments(full)
    with pytest.raises(InputError) as refused:
        add_tasks(full, LOADED, by, name)
    assert len(str(refused.value)) < 500
    assert not mark.exists()
    assert (list_environments(full), rows(full)) == (before, [])


def test_a_retired_environment_gets_no_task(full: Store) -> None:
    retire(full, ANNA, ADD)
    with pytest.raises(InputError, match="is retired: `perdure env restore` brings it back"):
        add_tasks(full, LOADED, ANNA, ADD)


def test_an_environment_of_the_stream_is_registered_when_it_is_named_first(full: Store) -> None:
    (added,) = add_tasks(full, LOADED, ANNA, "perdure:opposite", seed=1)
    assert added["environment"] == "perdure:opposite"
    (new,) = [row for row in list_environments(full) if row.name == "perdure:opposite"]
    assert new.code is not None


def test_the_default_stream_stays_out_of_a_home_that_has_its_own(full: Store) -> None:
    set_stages(full, [Stage(name="all", environments=(StageShare(name=ADD),), members=2)])
    default = LoadedConfig(config=configured().config.model_validate({"model": "tiny"}), origins={}, path=None)
    with pytest.raises(UnknownError, match="no environment 'perdure:first-word"):
        add_tasks(full, default, ANNA, "perdure:first-word?shots=2")
