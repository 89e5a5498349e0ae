"""The code of an environment changes while processes have it loaded: what is played, what is refused, and what a home then says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.conftest import Call
from tests.agent.processes.test_actor import actor, run
from tests.tiny_models import tiny_llama

from perdure.agent.config import Config
from perdure.agent.processes.actor import Actor, open_served, store_journal
from perdure.agent.stream.registering import register_environments
from perdure.envs.chance import ChanceLevel
from perdure.envs.environment import Environment
from perdure.envs.registry import load
from perdure.memory.environments import anchor_of, list_environments, note_code, register
from perdure.memory.errors import Unavailable
from perdure.memory.processes import events
from perdure.memory.store import Store, create_store
from perdure.memory.tasks import add_tasks, counts
from perdure.memory.trajectories.episodes import get_episode, list_episodes

pytestmark = pytest.mark.processes

GAME = """
import random


class Game:
    turn_limit, max_tokens = 1, 2

    def reset(self, seed=0):
        return "WHICH"

    def step(self, action):
        return "", float(bool(action)), True
"""
NAME = "py:edited:Game"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.syspath_prepend(tmp_path)

    def write(which: str) -> None:
        (tmp_path / "edited.py").write_text(GAME.replace("WHICH", which))

    write("one")
    return write


@pytest.fixture
def store(tmp_path: Path, write: Callable[[str], None]) -> Iterator[Store]:
    tiny_llama(tmp_path / "model")
    with create_store(tmp_path / "home") as store:
        register(store, NAME)
        yield store


def played(store: Store) -> list[tuple[str, str | None]]:
    """First observation and code of all episodes that were completed, the first one first."""
    listed = [get_episode(store, entry.id) for entry in reversed(list_episodes(store, limit=99)) if entry.state == "completed"]
    return [(episode.turns[0].observation, episode.code) for episode in listed]


def changed(store: Store) -> list[str]:
    return [event.message for event in events(store) if event.kind == "changed"]


def test_a_process_that_plays_takes_up_the_code_that_another_one_has_loaded(store: Store, write: Callable[[str], None]) -> None:
    playing = actor(store)
    model = playing.start(open_served)
    add_tasks(store, NAME, [3], 2, "stream")
    playing.run(model)
    (first,) = {code for _, code in played(store)}
    write("two")
    add_tasks(store, NAME, [4], 2, "stream")
    playing.run(model)
    assert {text for text, _ in played(store)} == {"one"}, "it is loaded, and nobody knows of another code yet"
    job = load(NAME)  # as the process of a job does
    assert note_code(store, NAME, job.code) is True
    add_tasks(store, NAME, [5], 2, "stream")
    playing.run(model)
    assert played(store) == [("one", first)] * 4 + [("two", job.code)] * 2
    assert [line.partition(": ")[0] for line in changed(store)] == [f"its code has changed ({first}, now {job.code})"]
    assert anchor_of(store, NAME) == "v0"


def test_a_trusted_one_needs_a_new_process_which_the_actor_asks_for_by_ending(
    store: Store, write: Callable[[str], None], tmp_path: Path
) -> None:
    config = Config.model_validate({"model": str(tmp_path / "model"), "sandbox": {"trusted": [NAME]}, "play": {"width": 2, "members": 2}})
    playing = Actor(store, config, lambda: counts(store)["queued"] + counts(store)["running"] == 0, store_journal(store))
    model = playing.start(open_served)
    add_tasks(store, NAME, [3], 2, "stream")
    playing.run(model)
    write("two")
    note_code(store, NAME, load(NAME).code)
    add_tasks(store, NAME, [4], 2, "stream")
    with pytest.raises(Unavailable, match="the code of edited has changed since this process imported it"):
        playing.run(model)
    assert [text for text, _ in played(store)] == ["one", "one"]


def test_a_start_notes_the_code_and_measures_anew_what_no_skill_pays(store: Store, write: Callable[[str], None]) -> None:
    def known() -> tuple[str | None, float | None]:
        (row,) = list_environments(store)
        return row.code, row.chance

    register_environments(store, [load(NAME)])
    assert known()[1] is None, "it was known already: it is measured when it is new"
    before = load(NAME)
    write("two")
    register_environments(store, [load(NAME)], measured={NAME: ChanceLevel(success=0.25, oracle=False)})
    assert known() == (load(NAME).code, 0.25)
    register_environments(store, [without_code(before)], measured={})
    assert known() == (load(NAME).code, 0.25), "without its code nothing is compared"
    assert len(changed(store)) == 1


def without_code(environment: Environment) -> Environment:
    return replace(environment, code="")


def test_episodes_events_and_status_say_it(perdure: Call, store: Store, write: Callable[[str], None], tmp_path: Path) -> None:
    add_tasks(store, NAME, [3], 2, "stream")
    run(store)
    write("two")
    note_code(store, NAME, load(NAME).code)
    home = str(store.home)
    shown = json.loads(perdure("episode", "show", "LAST", "--home", home, "--json").out)
    assert (shown["code"], shown["instructions"]) == (played(store)[-1][1], None)
    told = perdure("status", "--home", home, "--table").out
    assert f"{NAME} has changed" in told
    assert "its code" in told
    document = json.loads(perdure("status", "--home", home, "--json").out)
    assert list(document["watch"]["changed"]) == [NAME]
    assert document["codes"] == {NAME: load(NAME).code}
