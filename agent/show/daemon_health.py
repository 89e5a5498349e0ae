"""How a daemon is: what it does, why nothing more happens, and what is wrong with it. Read from the store and the lock alone."""

from __future__ import annotations

import time

from perdure.agent.home import lock_holder, lock_is_held
from perdure.agent.supervision.disk import WAITS_FOR_ROOM
from perdure.memory.processes import DISK, GIVEN_UP, GOES_ON, Event, Process, since_start
from perdure.memory.store import Store

SILENT = "has written nothing for"
SILENT_S = 60.0
"""A daemon that has written nothing for this long is reported as silent."""


def activity(store: Store, supervisor: Process | None) -> tuple[str, str | None, float | None]:
    """The state of the home, what it does or waits for, and when its daemon started, None if none runs."""
    held, holder = lock_is_held(store.home), lock_holder(store.home)
    if held and supervisor is not None and supervisor.pid == holder:
        reason, silent_s = supervisor.detail, time.time() - supervisor.beat
        if silent_s > SILENT_S:
            reason = f"the daemon (process {supervisor.pid}) {SILENT} {silent_s:.0f} s; its last log is in {store.home / 'logs'}"
        return supervisor.state, reason, supervisor.started
    if held:
        return "busy", f"a command (process {holder}) works in this home, no daemon", None
    reason = "no daemon runs in this home; start one with `perdure run`"
    if supervisor is not None:
        reason += f"; the last one ended: {supervisor.detail if supervisor.state == 'stopped' else 'without giving a reason'}"
    return "stopped", reason, None


def troubles(store: Store, state: str, reason: str | None, started: float | None) -> list[str]:
    """Why the daemon of this home is not well: there is none, it is silent, its processes die, or it has no room or has given up."""
    if started is None:
        return [reason or state]
    found = []
    if state == "restarting" or (reason is not None and SILENT in reason):
        found.append(reason or state)
    latest: dict[tuple[str, str], Event] = {}
    for event in since_start(store, GIVEN_UP, GOES_ON, DISK) or ():
        if event.kind == GOES_ON:
            latest.pop((GIVEN_UP, event.subject), None)
        else:
            latest[event.kind, event.subject] = event
    found += [
        f"{subject}: {event.message}"
        for (kind, subject), event in latest.items()
        if kind == GIVEN_UP or event.message.startswith(WAITS_FOR_ROOM)
    ]
    return found
