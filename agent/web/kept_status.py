"""The status of the home for many who ask at once: made by one reader at a time, and kept for half a second.

While it is made anew, those who ask get the one before, if it is not too old; else they wait. What takes longest, the report of the life,
changes with jobs, gates and moves: it is made anew beside when one of them changes, and every few seconds. Left out: the document itself
(`agent/commands/status.py`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from perdure.agent.commands.status import report
from perdure.agent.show.life_report import LifeReport, life_report
from perdure.agent.web.api.answering import encoded
from perdure.agent.web.stores import ServedHome
from perdure.memory.store import Store

FRESH_S = 0.5
STALE_S = 2.0
LIFE_S = 15.0
MARK = """
SELECT (SELECT group_concat(state || n) FROM (SELECT state, count(*) AS n FROM job GROUP BY state)),
       (SELECT max(id) FROM gate), (SELECT max(finished_at) FROM gate), (SELECT max(id) FROM move), (SELECT count(*) FROM version),
       (SELECT group_concat(name || coalesce(anchor, '') || coalesce(retired_at, '') || first_gate) FROM environment)
"""
"""What the report of the life changes with at once; all else in it moves slowly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _KnownLife:
    """A report of the life, what it was made of, and when."""

    report: LifeReport | None
    mark: tuple[object, ...]
    made_s: float


class KeptStatus:
    """The document of one home. Belongs to one event loop; the reading is done in threads."""

    def __init__(self, home: ServedHome, clock: Callable[[], float] = time.monotonic) -> None:
        self._home = home
        self._clock = clock
        self._document = b""
        self._made_s = float("-inf")
        self._life: _KnownLife | None = None
        self._life_is_due = False
        self._readers: dict[Callable[[], None], asyncio.Future[None]] = {}
        self._one = threading.Lock()

    async def document(self) -> bytes:
        """The status as JSON. Raises as reading the store does."""
        age_s = self._clock() - self._made_s
        if age_s >= FRESH_S:
            reader = self._begun(self._read)
            if age_s >= STALE_S:
                await asyncio.shield(reader)
        if self._life_is_due:
            self._begun(self._read_life)
        return self._document

    def _begun(self, read: Callable[[], None]) -> asyncio.Future[None]:
        """The reading that goes on, or a new one."""
        reader = self._readers.get(read)
        if reader is None or reader.done() or reader.get_loop() is not asyncio.get_running_loop():
            reader = self._readers[read] = asyncio.ensure_future(asyncio.to_thread(read))
            reader.add_done_callback(_take_note)
        return reader

    def _read(self) -> None:
        with self._one, self._home.reading() as store:
            if self._clock() - self._made_s < FRESH_S:
                return
            life = self._life or self._new_life(store)
            self._life_is_due = life.mark != _mark(store) or self._clock() - life.made_s > LIFE_S
            status = report(store, lambda _: life.report)
            self._document, self._made_s = encoded(status.as_json()), self._clock()

    def _read_life(self) -> None:
        with self._home.reading() as store:
            self._new_life(store)

    def _new_life(self, store: Store) -> _KnownLife:
        mark = _mark(store)  # before: what changes meanwhile is looked at again
        self._life = _KnownLife(report=life_report(store), mark=mark, made_s=self._clock())
        self._life_is_due = False
        return self._life


def _mark(store: Store) -> tuple[object, ...]:
    return tuple(store.rows(MARK)[0])


def _take_note(reader: asyncio.Future[None]) -> None:
    """An error is for those who wait; if nobody does, the next one reads anew."""
    with suppress(asyncio.CancelledError):
        reader.exception()
