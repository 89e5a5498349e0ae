"""Leases of a job and of the device, which a child holds while it works: a thread renews them, so that a long step loses none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from perdure.memory.errors import LeaseLost, PerdureError, RuntimeFailure
from perdure.memory.leases import RENEW_S, TTL_S, BootClock
from perdure.memory.processes import record_event, release_device, renew_device, take_device
from perdure.memory.records import Lease
from perdure.memory.store import Store, open_store

DEVICE_WAIT_S = 3600.0
DEVICE_POLL_S = 0.1


@contextmanager
def renewing(home: Path, owner: str, renew: Callable[[Store], None], lost: Callable[[], None], every_s: float = RENEW_S) -> Iterator[None]:
    """Renew a lease until the block ends; call `lost` if this process does not hold it any more."""
    ended = threading.Event()

    def renew_until_ended() -> None:
        while not ended.wait(every_s):
            try:
                with open_store(home) as store:
                    renew(store)
            except LeaseLost as error:
                lost()
                with suppress(PerdureError), open_store(home) as store:
                    record_event(store, "lease lost", owner, str(error))
                return
            except PerdureError:  # a full disk, a locked store: the lease still has time to go, and the next round tries again
                continue

    thread = threading.Thread(target=renew_until_ended, name=f"renewing a lease of {owner}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=RENEW_S)


@contextmanager
def holding_device(store: Store, lease: Lease, lost: Callable[[], None]) -> Iterator[None]:
    """Hold the device, which was taken with `lease`, until the block ends; call `lost` if the lease is lost."""
    try:
        with renewing(store.home, lease.owner, lambda own: renew_device(own, lease, TTL_S, BootClock()), lost):
            yield
    finally:
        release_device(store, lease)


def wait_for_device(store: Store, owner: str, each_round: Callable[[], None], stop: Callable[[], bool]) -> Lease | None:
    """The device as soon as it is free; None once `stop()` is true. Raises `RuntimeFailure` if it does not come free in time."""
    deadline = time.monotonic() + DEVICE_WAIT_S
    while not stop():
        each_round()
        lease = take_device(store, owner, TTL_S, BootClock())
        if lease is not None:
            return lease
        if time.monotonic() > deadline:
            raise RuntimeFailure(f"the device did not come free in {DEVICE_WAIT_S:.0f} s: `perdure status` shows which process has it")
        time.sleep(DEVICE_POLL_S)
    return None
