"""A daemon in its first week: paused, with a job that is cancelled, with a retired environment, and when its terminal closes."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from tests.agent.stand_ins import ADD, Place, plays

from perdure.agent.supervision.supervisor import HUNG_UP
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.environments import retire
from perdure.memory.jobs import add_job, cancel_job, get_job
from perdure.memory.processes import events, last_event, pause, processes, resume
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.tasks import counts, list_tasks

pytestmark = pytest.mark.processes

COMPARE = "perdure:compare"
ORDER = LearnOrder(learner="grpo", options={}, profile="standard")
WORKS = """
        set_job_state(store, lease, "running")
        while True:
            time.sleep(0.1)
"""
GIVES_BACK = """
        import signal
        def give_back(*_):
            release_job(store, lease)
            sys.exit(0)
        signal.signal(signal.SIGTERM, give_back)
        set_job_state(store, lease, "running")
        while True:
            time.sleep(0.1)
"""


def condition(store: Store) -> tuple[str, str]:
    found = next((process for process in processes(store) if process.name == "supervisor"), None)
    return ("", "") if found is None else (found.state, found.detail or "")


def step_by_step(place: Place, *steps: tuple[Callable[[Store], bool], Callable[[Store], object]]) -> Callable[[Store], bool]:
    """A condition that is met after the last step: each waits until the store is so, and then does something to it."""
    left = list(steps)

    def met(store: Store) -> bool:
        if left and left[0][0](store):
            left.pop(0)[1](store)
        return not left

    return met


def test_found_a_running_job_that_is_cancelled_ends_and_is_no_failure(place: Place) -> None:
    with create_store(place.home) as store:
        job = add_job(store, "slow", [ADD], ORDER)
    ended = place.supervise(
        place.actor("play(store, pulse)"),
        place.learner(WORKS.strip()),
        until=step_by_step(
            place,
            (lambda store: get_job(store, job).state == "running", lambda store: cancel_job(store, job, "not now")),
            (lambda store: condition(store)[0] == "playing", lambda store: None),
        ),
        supervise={"tries": 1},
    )
    assert ended.code == 0
    with open_store(place.home) as store:
        assert get_job(store, job).error == "cancelled: not now"
        assert [event.message for event in events(store) if event.kind in ("death", "given up")] == []


def test_found_a_pause_of_learning_gives_the_running_job_back_and_a_resume_goes_on(place: Place) -> None:
    with create_store(place.home) as store:
        job = add_job(store, "slow", [ADD], ORDER)
    ended = place.supervise(
        place.actor("play(store, pulse)"),
        place.learner(GIVES_BACK.strip()),
        until=step_by_step(
            place,
            (lambda store: get_job(store, job).state == "running", lambda store: pause(store, "learning", "busy")),
            (lambda store: "learning is paused: busy" in condition(store)[1], lambda store: resume(store, "learning")),
            (lambda store: get_job(store, job).state == "running", lambda store: None),
        ),
    )
    assert ended.code == 0
    with open_store(place.home) as store:
        assert (get_job(store, job).state, get_job(store, job).attempt) == ("queued", 2)
        assert last_event(store, "death") is None


def test_found_a_pause_of_play_ends_the_actor_and_a_resume_starts_it(place: Place) -> None:
    pids: list[int] = []

    def actor_pid(store: Store) -> int:
        return next(process.pid for process in processes(store) if process.name == "actor")

    def first(store: Store) -> None:
        pids.append(actor_pid(store))
        pause(store, "play", "noise")

    ended = place.supervise(
        place.actor("play(store, pulse)"),
        until=step_by_step(
            place,
            (plays, first),
            (
                lambda store: condition(store) == ("paused", "play is paused: noise; `perdure resume play` goes on"),
                lambda store: resume(store, "play"),
            ),
            (lambda store: plays(store) and actor_pid(store) != pids[0], lambda store: None),
        ),
    )
    assert ended.code == 0
    with open_store(place.home) as store:
        assert last_event(store, "death") is None


def test_found_no_task_of_a_retired_environment_is_drawn(place: Place) -> None:
    before: list[int] = []

    def retire_it(store: Store) -> None:
        retire(store, COMPARE)
        before.append(max(entry.task.id for entry in list_tasks(store)))

    ended = place.supervise(
        place.actor("finish_tasks(store, pulse)"),
        until=step_by_step(
            place,
            (lambda store: counts(store)["done"] >= 4, retire_it),
            (lambda store: counts(store)["done"] >= 12, lambda store: None),
        ),
        stream={"environments": [ADD, COMPARE], "tasks_per_round": 1},
    )
    assert ended.code == 0
    with open_store(place.home) as store:
        assert {entry.task.environment for entry in list_tasks(store, 100) if entry.task.id > before[0]} == {ADD}
        assert {entry.task.environment for entry in list_tasks(store, 100)} == {ADD, COMPARE}


def test_found_a_closing_terminal_ends_a_run_in_order(place: Place) -> None:
    daemon = place.daemon(place.actor("play(store, pulse)"))
    place.wait("play", plays)
    assert place.status()["confinement"] is not None
    daemon.send_signal(signal.SIGHUP)
    assert daemon.wait(timeout=30) == 0
    with open_store(place.home) as store:
        end = last_event(store, "end")
        assert end is not None
        assert end.message == HUNG_UP


def test_found_no_episode_stays_running_if_a_run_ends_while_its_actor_is_dead(place: Place) -> None:
    body = """
    from perdure.memory.records import EpisodePlan, VersionRef
    from perdure.memory.trajectories.journal import StoreJournal
    from perdure.memory.versions import add_initial
    add_initial(store, "tiny", "hash-of-tiny")
    pulse.say("playing", "")
    while not (leased := lease_tasks(store, f"actor:{os.getpid()}", 1, 60.0, BootClock())):
        time.sleep(0.05)
    task, lease = leased[0]
    plan = EpisodePlan(
        environment=task.environment, seed=task.seed, group=f"task-{task.id}", member=0, purpose="live", sampler=VersionRef("v0"),
        temperature=1.0, lease=lease,
    )
    StoreJournal(store, BootClock()).start([plan])
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = place.supervise(
        place.actor(body.strip()), until=lambda store: len([event for event in events(store) if event.kind == "death"]) >= 2
    )
    assert ended.code == 0
    with open_store(place.home) as store:
        assert store.rows("SELECT count(*) AS n FROM episode WHERE state = 'running'")[0]["n"] == 0
        assert counts(store)["running"] == 0
        assert store.rows("SELECT count(*) AS n FROM episode")[0]["n"] >= 1
