"""Whether a home is ready, for the probes of a cluster. Read from the database, the lock and the process table alone."""

from __future__ import annotations

import os
import time
from pathlib import Path

from perdure.agent.processes.process_names import ACTOR, SUPERVISOR
from perdure.agent.show.daemon_health import SILENT_S, activity
from perdure.memory.errors import PerdureError, Unavailable, UnknownError
from perdure.memory.processes import processes
from perdure.memory.store import Store, open_store, set_busy_timeout
from perdure.memory.versions import serving

PATIENCE_MS = 2000
"""How long the look waits for another writer."""
NEEDED_BYTES = 2**20

Answer = tuple[bool, str]
"""Yes or no, and why in one line."""


def readiness(home: Path) -> Answer:
    """Whether the database can be written and has the present schema, a daemon runs, a version serves, and the actor has its model.

    A daemon that a person paused is ready: it does what it was told.
    """
    try:
        with open_store(home) as store:  # refuses a disk that is read-only, and another schema
            set_busy_timeout(store, PATIENCE_MS)
            _require_writable(store)
            return _daemon_is_ready(store)
    except PerdureError as error:
        return False, " ".join(str(error).split())


def _require_writable(store: Store) -> None:
    """Raise `Unavailable` if the write lock cannot be had, or if nothing fits on the disk. Writes nothing."""
    with store.write():
        pass
    found = os.statvfs(store.home)
    if found.f_bavail * found.f_frsize < NEEDED_BYTES:
        raise Unavailable(f"the disk of {store.home} is full: free some space")


def _daemon_is_ready(store: Store) -> Answer:
    known = {process.name: process for process in processes(store)}
    supervisor, actor = known.get(SUPERVISOR), known.get(ACTOR)
    state, why, started = activity(store, supervisor)
    if started is None or supervisor is None:
        return False, f"{state}: {why}" if why else state
    if time.time() - supervisor.beat > SILENT_S or state in ("starting", "restarting", "stopped"):
        return False, f"{state}: {why}" if why else state
    try:
        version = serving(store).name
    except UnknownError as error:
        return False, str(error)
    if state == "paused":
        return True, f"{version} serves; paused: {why}"
    if actor is None or actor.beat < supervisor.started or actor.state in ("starting", "stopped"):
        return False, "the actor has not loaded its model yet"
    return True, f"{version} serves; {state}"
