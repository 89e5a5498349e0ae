"""Leases that are held while a process works: renewed by a thread, and given up when another process has them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.agent.processes.lease_renewal import holding_device, renewing, wait_for_device
from perdure.memory.leases import BootClock, end_all_leases
from perdure.memory.processes import device_owner, events, release_device, renew_device, take_device
from perdure.memory.records import Lease
from perdure.memory.store import Store, create_store

CLOCK = BootClock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create_store(tmp_path / "home") as store:
        yield store


def taken(store: Store, owner: str, ttl_s: float = 60.0) -> Lease:
    lease = take_device(store, owner, ttl_s, CLOCK)
    assert lease is not None
    return lease


def test_a_lease_outlasts_its_time_only_while_it_is_renewed(store: Store) -> None:
    lease = taken(store, "a:1", ttl_s=1.0)
    with renewing(store.home, "a:1", lambda own: renew_device(own, lease, 1.0, CLOCK), lambda: None, every_s=0.05):
        time.sleep(1.5)
        assert device_owner(store, CLOCK) == "a:1"
    time.sleep(1.2)
    assert device_owner(store, CLOCK) is None


def test_the_holder_of_a_lease_hears_that_it_is_lost(store: Store) -> None:
    lease = taken(store, "a:1")
    lost = threading.Event()
    with renewing(store.home, "a:1", lambda own: renew_device(own, lease, 60.0, CLOCK), lost.set, every_s=0.05):
        time.sleep(0.2)
        assert not lost.is_set()
        end_all_leases(store)
        assert lost.wait(10.0)
    (event,) = events(store)
    assert (event.kind, event.subject) == ("lease lost", "a:1")


def test_the_device_is_given_back_also_after_an_error(store: Store) -> None:
    def work() -> None:
        with holding_device(store, taken(store, "a:1"), lambda: None):
            assert device_owner(store, CLOCK) == "a:1"
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        work()
    assert device_owner(store, CLOCK) is None


def test_one_waits_for_the_device_until_it_is_free_or_one_is_to_stop(store: Store) -> None:
    first = taken(store, "a:1")
    rounds: list[int] = []
    assert wait_for_device(store, "b:2", lambda: rounds.append(1), lambda: len(rounds) == 3) is None
    assert device_owner(store, CLOCK) == "a:1"

    def give_back_in_the_second_round() -> None:
        rounds.append(1)
        if len(rounds) == 5:
            release_device(store, first)

    lease = wait_for_device(store, "b:2", give_back_in_the_second_round, lambda: False)
    assert lease is not None
    assert (lease.owner, device_owner(store, CLOCK), len(rounds)) == ("b:2", "b:2", 5)
