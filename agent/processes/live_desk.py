"""The desk of a process on the head: tasks come from the store of the home, and go back there (`live_shift.py:TaskDesk`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from perdure.agent.processes.live_shift import LeasedTask
from perdure.memory import environments
from perdure.memory.environments import code_of_environment
from perdure.memory.leases import TTL_S, Clock
from perdure.memory.records import Lease, VersionRef
from perdure.memory.store import Store
from perdure.memory.tasks import finish_task, lease_tasks, release_task, retry_task
from perdure.memory.trajectories.episodes import completed_members
from perdure.memory.versions import serving


class LiveDesk:
    """Leases one task at a time to `owner`. A shift is over once another version serves, or `must_end()`."""

    def __init__(self, store: Store, owner: str, clock: Clock, must_end: Callable[[], bool]) -> None:
        self._store = store
        self._owner = owner
        self._clock = clock
        self._must_end = must_end

    def serving(self) -> VersionRef:
        return VersionRef(serving(self._store).name)

    def lease(self, version: VersionRef) -> Sequence[LeasedTask] | None:
        if self.serving() != version or self._must_end():
            return None
        return leased_tasks(self._store, self._owner, 1, self._clock)

    def note_code(self, environment: str, code: str) -> None:
        environments.note_code(self._store, environment, code)

    def cannot_make(self, lease: Lease, error: str) -> None:
        retry_task(self._store, lease, error)

    def finish(self, lease: Lease) -> None:
        finish_task(self._store, lease)

    def release(self, lease: Lease) -> None:
        release_task(self._store, lease)

    def retry(self, lease: Lease, error: str) -> None:
        retry_task(self._store, lease, error)


def leased_tasks(store: Store, owner: str, most: int, clock: Clock) -> list[LeasedTask]:
    """Lease up to `most` queued tasks, with what a process needs to know to play them."""
    found = lease_tasks(store, owner, most, TTL_S, clock)
    done = completed_members(store, [f"task-{task.id}" for task, _ in found])
    return [
        LeasedTask(task=task, lease=lease, done=frozenset(done[f"task-{task.id}"]), code=code_of_environment(store, task.environment))
        for task, lease in found
    ]
