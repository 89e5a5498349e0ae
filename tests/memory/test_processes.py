"""What processes say of themselves, and who has the device."""

from __future__ import annotations

import pytest

from perdure.memory import processes
from perdure.memory.errors import LeaseLost
from perdure.memory.store import Store


def test_a_beat_keeps_the_start_until_the_process_is_another(store: Store) -> None:
    processes.beat(store, "actor", 11, "starting")
    (first,) = processes.processes(store)
    processes.beat(store, "actor", 11, "playing", "8 episodes")
    (second,) = processes.processes(store)
    assert (second.started, second.state, second.detail) == (first.started, "playing", "8 episodes")
    assert second.beat > first.beat
    processes.beat(store, "actor", 12, "starting")
    (third,) = processes.processes(store)
    assert (third.pid, third.detail) == (12, None)
    assert third.started > first.started
    assert third.as_json()["name"] == "actor"


def test_events_are_kept_the_latest_first(store: Store) -> None:
    for n in range(3):
        processes.record_event(store, "restart", "actor", f"number {n}")
    assert [event.message for event in processes.events(store, limit=2)] == ["number 2", "number 1"]
    assert processes.events(store)[0].as_json()["kind"] == "restart"


def test_the_latest_event_of_a_kind_is_found(store: Store) -> None:
    assert processes.last_event(store, "death") is None
    for kind, message in (("death", "first"), ("death", "second"), ("disk", "third")):
        processes.record_event(store, kind, "actor", message)
    found = processes.last_event(store, "death")
    assert found is not None
    assert found.message == "second"


def test_beats_of_old_processes_are_deleted(store: Store) -> None:
    for n in (10, 9, 8, 7):
        processes.beat(store, f"learner-{n}", n, "done")
    for name in ("actor", "learner"):
        processes.beat(store, name, 1, "playing")
    processes.forget_processes(store, "learner-", 2)
    assert {process.name for process in processes.processes(store)} == {"actor", "learner", "learner-8", "learner-7"}
    found = processes.process_of(store, "learner-8", 8)
    assert found is not None
    assert found.state == "done"
    assert processes.process_of(store, "learner-8", 9) is None


def test_one_process_has_the_device(store: Store, clock) -> None:
    actor = processes.take_device(store, "actor", 60, clock)
    assert actor is not None
    assert processes.take_device(store, "learner", 60, clock) is None
    assert processes.device_owner(store, clock) == "actor"
    clock.now += 59
    processes.renew_device(store, actor, 60, clock)
    clock.now += 59
    assert processes.take_device(store, "learner", 60, clock) is None
    processes.release_device(store, actor)
    assert processes.device_owner(store, clock) is None
    learner = processes.take_device(store, "learner", 60, clock)
    assert learner is not None
    assert learner.attempt == 2


def test_the_device_of_a_dead_process_is_taken_and_not_given_back_by_it(store: Store, clock) -> None:
    dead = processes.take_device(store, "actor", 60, clock)
    assert dead is not None
    clock.now += 61
    assert processes.device_owner(store, clock) is None
    assert processes.take_device(store, "learner", 60, clock) is not None
    with pytest.raises(LeaseLost):
        processes.renew_device(store, dead, 60, clock)
    processes.release_device(store, dead)
    assert processes.device_owner(store, clock) == "learner"
