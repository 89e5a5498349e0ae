"""The status of the home for many who ask at once: made by one reader at a time, and kept for half a second.

While it is being made anew, those who ask get the one before, up to a second old; only then they wait. What takes longest, the report of
the life, changes with jobs, gates and moves: it is kept until one of them changes, and some seconds at most. Left out: the document
itself (`agent/commands/status.py`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from perdure.agent.commands.status import report
from perdure.agent.show.life_report import LifeReport, life_report
from perdure.agent.web.api.answering import encoded
from perdure.agent.web.stores import ServedHome
from perdure.memory.store import Store

FRESH_S = 0.5
STALE_S = 1.0
LIFE_S = 15.0
MARK = """
SELECT (SELECT group_concat(state || n) FROM (SELECT state, count(*) AS n FROM job GROUP BY state)) AS jobs,
       (SELECT max(id) FROM gate) AS gate, (SELECT count(*) FROM gate WHERE verdict IS NOT NULL) AS closed,
       (SELECT max(id) FROM move) AS move, (SELECT count(*) FROM version) AS versions,
       (SELECT group_concat(name || coalesce(anchor, '') || coalesce(retired_at, '') || first_gate) FROM environment) AS environments
"""
"""What the report of the life changes with at once; all else in it moves slowly."""


class KeptStatus:
    """The document of one home. Belongs to one event loop; the reading is done in threads."""

    def __init__(self, home: ServedHome, clock: Callable[[], float] = time.monotonic) -> None:
        self._home = home
        self._clock = clock
        self._document = b""
        self._made_s = float("-inf")
        self._reader: asyncio.Future[None] | None = None
        self._one = threading.Lock()
        self._life: LifeReport | None = None
        self._life_mark: tuple[object, ...] | None = None
        self._life_s = float("-inf")

    async def document(self) -> bytes:
        """The status as JSON. Raises as reading the store does, if the last one is too old by then."""
        age_s = self._clock() - self._made_s
        if age_s < FRESH_S:
            return self._document
        reader = self._reader
        if reader is None or reader.done() or reader.get_loop() is not asyncio.get_running_loop():
            reader = self._reader = asyncio.ensure_future(asyncio.to_thread(self._read))
        if age_s < STALE_S:
            reader.add_done_callback(_forget)
            return self._document
        await asyncio.shield(reader)
        return self._document

    def _read(self) -> None:
        with self._one:
            if self._clock() - self._made_s < FRESH_S:
                return
            with self._home.reading() as store:
                status = report(store, self._life_of)
            self._document, self._made_s = encoded(status.as_json()), self._clock()

    def _life_of(self, store: Store) -> LifeReport | None:
        mark = tuple(store.rows(MARK)[0])
        if mark != self._life_mark or self._clock() - self._life_s > LIFE_S:
            self._life, self._life_mark, self._life_s = life_report(store), mark, self._clock()
        return self._life


def _forget(reader: asyncio.Future[None]) -> None:
    """An error of a reading that nobody waits for: the next one who waits reads anew."""
    with suppress(asyncio.CancelledError):
        reader.exception()
