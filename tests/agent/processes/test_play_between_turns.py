"""The actor draws further tasks while it plays, and stops where it is the turn of others. A real store, and a model with a script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import ByteChat, ScriptedPolicy
from tests.results import learn_result

from perdure.agent.config import Config
from perdure.agent.processes.actor import Actor, store_journal
from perdure.envs.policy import Request, Sample
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.environments import register
from perdure.memory.jobs import add_job, finish_job, lease_job
from perdure.memory.leases import BootClock
from perdure.memory.processes import device_owner, processes
from perdure.memory.records import VersionRef
from perdure.memory.store import Store, create_store
from perdure.memory.tasks import add_tasks, counts, list_tasks
from perdure.memory.trajectories.episodes import EpisodeSummary, list_episodes
from perdure.memory.versions import add_candidate, add_initial, promote

pytestmark = pytest.mark.processes

WALK, NOTHING = "py:tests.agent.coin:Walk", "py:tests.agent.coin:Nothing"
CLOCK = BootClock()
LONGEST = 9
"""The seed of a task with ten turns; seed 0 has one."""


@dataclass
class Model:
    """Says the same to everything, and lets the test do something before a round of generation."""

    before: Callable[[int], None] = lambda n: None
    """Gets the number of the round, from 1."""
    chat: ByteChat = field(default_factory=ByteChat)
    context_limit: int = 100_000
    widths: list[int] = field(default_factory=list)
    """How many episodes each round had."""
    policy: ScriptedPolicy | None = None

    def load(self, version: str) -> Model:
        self.policy = ScriptedPolicy(lambda prompt: "on", VersionRef(version))
        return self

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        self.widths.append(len(requests))
        self.before(len(self.widths))
        assert self.policy is not None
        return self.policy.generate(requests)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create_store(tmp_path / "home") as store:
        for name in (WALK, NOTHING):
            register(store, name)
        add_initial(store, "tiny", "hash-of-tiny")
        yield store


def play(store: Store, model: Model, *, width: int = 8, stop: Callable[[], bool] | None = None, **settings: Any) -> list[EpisodeSummary]:
    """Let an actor play, by default until no task is open; gives the episodes in the order in which they began."""
    config = Config.model_validate({"play": {"width": width, "members": 2}, **settings})

    def all_played() -> bool:
        return counts(store)["queued"] + counts(store)["running"] == 0

    Actor(store, config, stop or all_played, store_journal(store)).run(model)
    return list_episodes(store, limit=999)[::-1]


def paused(store: Store) -> bool:
    return any(process.state == "paused" for process in processes(store))


def test_generation_stays_full_while_tasks_wait(store: Store) -> None:
    add_tasks(store, WALK, range(40), 2, "stream", "all")
    model = Model()
    played = play(store, model)
    assert counts(store)["done"] == 40
    assert {(episode.state, episode.stop_reason) for episode in played} == {("completed", "terminated")}
    assert sum(model.widths) == sum(episode.turns for episode in played) == 2 * 4 * 55
    tail = next(n for n, width in enumerate(model.widths) if width < 8)
    assert len(model.widths) - tail < 10, "only while the last episodes come to their ends"
    assert model.widths[tail:] == sorted(model.widths[tail:], reverse=True)


def test_only_tasks_that_have_a_place_are_leased(store: Store) -> None:
    add_tasks(store, WALK, [LONGEST] * 4, 6, "stream", "all")
    running: list[int] = []
    play(store, Model(before=lambda n: running.append(counts(store)["running"])), width=4)
    assert max(running) == 2, "the one that comes to its end, and the next"
    groups = [episode.task for episode in list_episodes(store, limit=99)[::-1]]
    assert groups == sorted(groups, key=lambda task: task or 0), "members of a task come before those of the next"


def test_what_a_person_asks_for_comes_as_soon_as_there_is_a_place(store: Store) -> None:
    add_tasks(store, WALK, range(40), 2, "stream", "all")
    asked: list[int] = []

    def ask(n: int) -> None:
        if n == 5:
            asked.extend(add_tasks(store, WALK, [0], 2, "person"))
            asked.append(len(list_episodes(store, limit=999)))

    order = [episode.task for episode in play(store, Model(before=ask))]
    task, begun = asked
    assert order[begun : begun + 4].count(task) == 2, "after the rest of a group at most"


def test_a_stream_that_ran_dry_is_asked_again_while_something_is_in_play(store: Store) -> None:
    add_tasks(store, WALK, [LONGEST], 1, "stream", "all")

    def more(n: int) -> None:
        if n == 3:
            add_tasks(store, WALK, [0, 0, 0], 1, "stream", "all")

    model = Model(before=more)
    play(store, model)
    assert model.widths == [1, 1, 1, 4, *[1] * 6]


def test_another_version_plays_once_the_tasks_that_were_begun_are_played(store: Store) -> None:
    add_tasks(store, WALK, range(40), 2, "stream", "all")
    begun: list[int] = []

    def move(n: int) -> None:
        if n == 5:
            (store.home / "versions" / "v1").mkdir(parents=True)
            add_candidate(store, None, "v1", "v0", "hash-of-v1", "versions/v1", [WALK], None)
            promote(store, "v1", "a test wants it")
            begun.append(len(list_episodes(store, limit=999)))

    played = play(store, Model(before=move))
    assert {episode.state for episode in played} == {"completed"}
    by_version = [episode.sampler for episode in played]
    old = by_version.count("v0")
    assert by_version == ["v0"] * old + ["v1"] * (80 - old)
    assert begun[0] <= old <= begun[0] + 1, "at most the rest of a group"
    assert {len({one.sampler for one in played if one.task == task.task.id}) for task in list_tasks(store, 99)} == {1}


def test_on_a_cpu_a_job_gets_the_device_after_what_was_begun(store: Store) -> None:
    add_tasks(store, WALK, range(40), 2, "stream", "all")
    add_job(store, "a", [WALK], LearnOrder(learner="grpo"))
    begun: list[int] = []

    def lease(n: int) -> None:
        if n == 5:
            assert lease_job(store, "learner-1:1", 60.0, CLOCK) is not None
            begun.append(len(list_episodes(store, limit=999)))

    model = Model(before=lease)
    played = play(store, model, stop=lambda: paused(store))
    assert {episode.state for episode in played} == {"completed"}
    assert begun[0] <= len(played) <= begun[0] + 1
    assert len(model.widths) <= 5 + 10
    assert (counts(store)["running"], counts(store)["failed"]) == (0, 0)
    assert counts(store)["queued"] > 20
    assert device_owner(store, CLOCK) is None


def test_on_a_gpu_play_goes_on_beside_a_job(store: Store) -> None:
    add_tasks(store, WALK, range(20), 2, "stream", "all")
    add_job(store, "a", [WALK], LearnOrder(learner="grpo"))
    leased = lease_job(store, "learner-1:1", 60.0, CLOCK)
    assert leased is not None
    play(store, Model(), device="cuda")
    assert counts(store)["done"] == 20
    finish_job(store, leased[1], learn_result(None), None)


def test_tasks_that_cannot_begin_hold_nothing_up(store: Store) -> None:
    add_tasks(store, WALK, [LONGEST], 1, "person")
    add_tasks(store, NOTHING, range(5), 2, "stream", "all")
    open_: list[int] = []
    play(store, Model(before=lambda n: open_.append(counts(store)["queued"])))
    assert counts(store) == {"queued": 0, "running": 0, "done": 1, "failed": 5}
    assert open_ == sorted(open_, reverse=True)
    assert open_[0] == 5, "one a round, so that the others' turns are not kept waiting"


def test_it_says_what_it_plays(store: Store) -> None:
    add_tasks(store, WALK, range(10), 2, "stream", "all")
    said: list[tuple[str, str | None]] = []
    play(store, Model(before=lambda n: said.extend((one.state, one.detail) for one in processes(store))))
    assert said[0] == ("playing", "with v0, up to 8 episodes at once; tasks so far: 1")


def test_it_says_if_turns_are_separate_sequences(store: Store) -> None:
    class SeparateChat(ByteChat):
        separate = True

    add_tasks(store, WALK, range(2), 2, "stream", "all")
    said: list[str] = []
    model = Model(before=lambda n: said.extend(one.detail or "" for one in processes(store)), chat=SeparateChat())
    play(store, model)
    assert said[0] == "with v0, up to 8 episodes at once; each turn is a sequence of its own; tasks so far: 1"
