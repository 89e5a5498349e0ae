"""The actor's loop in this process, with a tiny real model and a real store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.tiny_models import tiny_llama

from perdure.agent.config import Config
from perdure.agent.processes.actor import Actor, open_served, store_journal
from perdure.learners.option_parsing import parse_options
from perdure.learners.trainees.trainee import open_trainee
from perdure.learners.weights.adapters import write_version, write_weights
from perdure.learners.weights.base_models import resolve_model
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.environments import register
from perdure.memory.errors import RuntimeFailure
from perdure.memory.jobs import add_job, lease_job
from perdure.memory.leases import ATTEMPT_CAP, BootClock, end_all_leases
from perdure.memory.processes import device_owner, processes
from perdure.memory.records import Task, VersionRef
from perdure.memory.store import Store, create_store
from perdure.memory.tasks import add_tasks, counts, list_tasks
from perdure.memory.trajectories.episodes import get_episode, list_episodes
from perdure.memory.versions import add_candidate, promote, serving

pytestmark = pytest.mark.processes

COIN = "py:tests.agent.coin:Coin"
BROKEN = "py:tests.agent.coin:Broken"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    tiny_llama(tmp_path / "model")
    with create_store(tmp_path / "home") as store:
        table = "py:tests.envs.tables:Table"
        for name in (COIN, BROKEN, "py:tests.agent.coin:Nothing", table, f"{table}?opponent=v0", f"{table}?opponent=v9"):
            register(store, name)
        yield store


def actor(store: Store, stop: Callable[[], bool] | None = None, *, width: int = 8, members: int = 4) -> Actor:
    """An actor that stops as soon as no task is open, unless `stop` is given."""
    config = Config.model_validate({"model": str(store.home.parent / "model"), "play": {"width": width, "members": members}})
    return Actor(store, config, stop or (lambda: counts(store)["queued"] + counts(store)["running"] == 0), store_journal(store))


def run(store: Store, stop: Callable[[], bool] | None = None, *, width: int = 8) -> None:
    found = actor(store, stop, width=width)
    found.run(found.start(open_served))


def only_task(store: Store) -> Task:
    (entry,) = list_tasks(store)
    return entry.task


def test_tasks_are_played_as_whole_groups_by_the_version_that_serves(store: Store) -> None:
    ids = add_tasks(store, COIN, [3, 4, 5], 4, "stream")
    run(store)
    assert serving(store).name == "v0"
    assert counts(store) == {"queued": 0, "running": 0, "done": 3, "failed": 0}
    played = [get_episode(store, entry.id) for entry in list_episodes(store, limit=99)]
    assert sorted((episode.task, episode.member) for episode in played) == [(task, member) for task in ids for member in range(4)]
    assert {episode.group for episode in played} == {f"task-{task}" for task in ids}
    assert all(episode.state == "completed" and episode.turns[0].sampler == VersionRef("v0") for episode in played)
    assert device_owner(store, BootClock()) is None


def test_task_whose_environment_always_fails_is_tried_and_then_failed_with_the_reason(store: Store) -> None:
    add_tasks(store, BROKEN, [3], 2, "stream")
    run(store)
    task = only_task(store)
    assert (task.state, task.attempt) == ("failed", ATTEMPT_CAP)
    assert task.error is not None
    assert "this environment is broken" in task.error
    assert {entry.state for entry in list_episodes(store)} == {"env_error"}


def test_environment_that_cannot_be_made_fails_its_task_and_no_other(store: Store) -> None:
    add_tasks(store, "py:tests.agent.coin:Nothing", [3], 2, "person")
    add_tasks(store, COIN, [3], 2, "stream")
    run(store)
    states = {entry.task.environment: entry.task for entry in list_tasks(store)}
    assert states[COIN].state == "done"
    failed = states["py:tests.agent.coin:Nothing"]
    assert failed.state == "failed"
    assert "cannot be made" in (failed.error or "")


def test_stop_gives_tasks_back_and_members_that_were_completed_are_not_played_again(store: Store) -> None:
    add_tasks(store, COIN, [3], 4, "stream")
    run(store, stop=lambda: len(list_episodes(store)) >= 2, width=2)
    assert (only_task(store).state, only_task(store).error) == ("queued", None)
    first = {entry.id: entry.state for entry in list_episodes(store)}
    assert set(first.values()) == {"completed"}
    run(store)
    assert only_task(store).state == "done"
    episodes = [get_episode(store, entry.id) for entry in list_episodes(store)]
    assert sorted(episode.member for episode in episodes) == [0, 1, 2, 3]


def test_what_is_in_play_when_it_stops_is_aborted(store: Store) -> None:
    register(store, "perdure:guess-number")
    add_tasks(store, "perdure:guess-number", [3], 2, "stream")
    run(store, stop=lambda: any(entry.turns for entry in list_episodes(store)))
    assert only_task(store).state == "queued"
    assert [(entry.state, entry.stop_reason) for entry in list_episodes(store)] == [("aborted", "interrupted")] * 2


def test_it_pauses_while_a_process_works_on_a_job(store: Store) -> None:
    add_tasks(store, COIN, [3], 2, "stream")
    add_job(store, "a", [COIN], LearnOrder(learner="grpo"))
    assert lease_job(store, "learner", 60.0, BootClock()) is not None
    said: list[tuple[str, str | None]] = []

    def stop() -> bool:
        said.extend((process.state, process.detail) for process in processes(store))
        return len(said) > 1

    run(store, stop)
    assert said[-1] == ("paused", "job 1 (learn) has the CPU")
    assert counts(store)["queued"] == 1
    assert list_episodes(store) == []


def test_a_job_that_no_process_works_on_stops_no_play(store: Store) -> None:
    add_tasks(store, COIN, [3], 2, "stream")
    for key in ("waiting", "its process died"):
        add_job(store, key, [COIN], LearnOrder(learner="grpo"))
    assert lease_job(store, "learner", 60.0, BootClock(), 2) is not None
    end_all_leases(store)
    run(store)
    assert counts(store)["done"] == 1


def test_the_loop_and_the_interface_of_engines_load_no_torch() -> None:
    modules = "perdure.agent.processes.actor, perdure.learners.engines.engine"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_next_batch_is_played_by_the_version_that_was_promoted(store: Store) -> None:
    add_tasks(store, COIN, [3], 2, "stream")
    run(store)
    path = promoted_version(store)
    add_tasks(store, COIN, [4], 2, "stream")
    run(store)
    assert [entry.sampler for entry in list_episodes(store)] == ["v1", "v1", "v0", "v0"]

    (store.home / path / "adapter_model.safetensors").write_bytes(b"damaged")
    add_tasks(store, COIN, [5], 2, "stream")
    with pytest.raises(RuntimeFailure, match="changed or damaged"):
        run(store)
    assert counts(store)["queued"] == 1
    assert device_owner(store, BootClock()) is None


def test_a_game_for_several_is_played_against_the_version_that_serves_or_a_fixed_one(store: Store) -> None:
    run(store)
    promoted_version(store)
    table = "py:tests.envs.tables:Table"
    for options in ("", "?opponent=v0", "?opponent=v9"):
        add_tasks(store, table + options, [3], 2, "stream")
    run(store)
    played = list_episodes(store, limit=99)
    for options, seated in (("", "v1"), ("?opponent=v0", "v0")):
        assert sorted((entry.seat, entry.sampler, entry.state) for entry in played if entry.environment == table + options) == [
            *[(0, "v1", "completed")] * 2,
            *[(1, seated, "completed")] * 2,
        ]
    [failed] = [entry.task for entry in list_tasks(store) if entry.task.state == "failed"]
    assert failed.environment == f"{table}?opponent=v9"
    assert "no version" in (failed.error or "")


def promoted_version(store: Store) -> str:
    """Make a version whose adapter does nothing yet, and let it serve; gives its folder."""
    files = resolve_model(str(store.home.parent / "model"), store.home, print)
    trainee = open_trainee(files, device="cpu", dtype=torch.float32, options=parse_options("grpo", {"rank": 2, "alpha": 4}))
    path, hash_ = write_version(store.home, "v1", files, lambda folder: write_weights(folder, trainee.weights(), files))
    add_candidate(store, None, "v1", "v0", hash_, path, [COIN], None)
    promote(store, "v1", "a test wants it")
    return path
