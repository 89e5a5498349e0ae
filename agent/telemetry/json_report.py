"""What a daemon says on its stderr if its logs are JSON.

It tells each event, each change that a person made, each new state of a process, and each piece of work that has ended.

All of it is read from the store. Left out: the same for people (`agent/show/home_snapshot.py`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from perdure.agent.processes.process_names import SUPERVISOR
from perdure.agent.show.home_snapshot import POLL_S, beside
from perdure.agent.telemetry.ended_work import EndedWork
from perdure.agent.telemetry.json_log import Id, ids_of_process, json_line
from perdure.agent.telemetry.trace_ids import Traces
from perdure.memory.changes import changes_after, list_changes
from perdure.memory.errors import PerdureError
from perdure.memory.processes import GIVEN_UP, events_after, last_event_id, processes
from perdure.memory.store import Store, open_store

LEVELS = {
    "death": "error",
    "error": "error",
    GIVEN_UP: "error",
    "damaged": "error",
    "disk": "warning",
    "warning": "warning",
    "notify": "warning",
}
"""Of events by kind; all others are `info`."""

Write = Callable[[str], None]


@contextmanager
def reporting_json(home: Path, write: Write) -> Iterator[None]:
    """Write a line for each thing that happens in the home while this lasts."""
    with open_store(home) as store:
        last = last_event_id(store)
    with beside(lambda ended: _report(home, write, ended, last)):
        yield


class Reported:
    """What has been said of one store. Belongs to the thread that opened it."""

    def __init__(self, store: Store, last_event: int) -> None:
        self._store = store
        self._last_event = last_event
        self._states: dict[str, tuple[int, str]] = {one.name: (one.pid, one.state) for one in processes(store)}
        self._last_change = max((change.id for change in list_changes(store, 1)), default=0)
        self._work = EndedWork(store)
        self._traces = Traces(store)

    def lines(self) -> Iterator[str]:
        """A line for each thing that is new."""
        for event in events_after(self._store, self._last_event):
            self._last_event = event.id
            said = f"{event.kind} ({event.subject}): {event.message}"
            yield self._line(LEVELS.get(event.kind, "info"), said, _ids_of_subject(event.subject), event.happened)
        for change in changes_after(self._store, self._last_change):
            self._last_change = change.id
            said = f"{change.what} ({change.subject}) by {change.who}" + (f": {change.reason}" if change.reason else "")
            yield self._line("info", said, _ids_of_subject(change.subject), change.made)
        for process in processes(self._store):
            now = process.pid, process.state
            if self._states.get(process.name) != now:
                self._states[process.name] = now
                said = f"{process.name}: {process.state}" + (f", {process.detail}" if process.detail else "")
                yield self._line("info", said, ids_of_process(process.name), process.beat)
        for piece in self._work.look():
            level = "warning" if piece.error or piece.outcome in ("failed", "env_error") else "info"
            yield self._line(level, str(piece), piece.ids, piece.ended)

    def _line(self, level: str, message: str, ids: Mapping[str, Id | None], at: float) -> str:
        return json_line(SUPERVISOR, level, message, {**ids, "trace": self._traces.of(ids)}, at)


def _report(home: Path, write: Write, ended: threading.Event, last_event: int) -> None:
    reported: Reported | None = None
    store: Store | None = None
    try:
        done = False
        while not done:
            done = ended.wait(POLL_S)
            try:
                if store is None or reported is None:
                    store = open_store(home)
                    reported = Reported(store, last_event)
                for line in reported.lines():
                    write(line)
            except PerdureError:  # the store cannot be read at the moment; the next look tells what this one did not
                continue
    finally:
        if store is not None:
            store.close()


def _ids_of_subject(subject: str) -> Mapping[str, Id | None]:
    """What an event is about: its subject is a job, a process, a version, or something without an id."""
    job = re.fullmatch(r"job (\d+)", subject)
    if job:
        return {"job": int(job[1])}
    return {"version": subject} if re.fullmatch(r"v\d+", subject) else ids_of_process(subject)
