"""The one thread of the journal that has the store. What waits is written together, so that many players share one wait for the disk.

All messages that have come while a transaction was written make up the next one. Each is a part of it that can fail alone; if the
transaction itself fails, all of them have. A message is answered after its transaction is on the disk.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from perdure.agent.cluster.journal.journal_messages import Body
from perdure.agent.cluster.journal.known_players import KnownPlayers
from perdure.agent.cluster.journal.ledger import Ledger
from perdure.agent.processes.exit_codes import die_of
from perdure.agent.processes.pulse import BEAT_S
from perdure.memory import faults
from perdure.memory.errors import PerdureError, RuntimeFailure, Unavailable
from perdure.memory.json_value import Document
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.leases import BootClock
from perdure.memory.store import Store, open_store

TOGETHER = 64
"""Messages of one transaction."""
LOOK_S = 1.0
"""How often it looks for players that are silent."""
WAITING = 1024
"""Messages that may wait; a further one is told to try later."""

Asked = tuple[str, Body, Future[Document]]


class Writer:
    """Answers messages in the order in which they came. `start` it once; `end` waits for what was asked."""

    def __init__(self, home: Path, players: KnownPlayers, beat: Callable[[Store], None]) -> None:
        self._home = home
        self._players = players
        self._beat = beat
        self._asked: queue.Queue[Asked | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="writing", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._asked.put(None)
        self._thread.join()

    def ask(self, path: str, body: Body) -> Future[Document]:
        """Have a message answered. Raises `Unavailable` if too many wait."""
        if self._asked.qsize() >= WAITING:
            raise Unavailable("too many messages wait to be written: try later")
        future: Future[Document] = Future()
        self._asked.put((path, body, future))
        return future

    def _run(self) -> None:
        try:
            self._write()
        except Exception as error:  # noqa: BLE001 - a mistake of ours, or a damaged store: the supervisor starts another process
            die_of(error)

    def _write(self) -> None:
        with open_store(self._home) as store:
            ledger = Ledger(store=store, clock=BootClock(), players=self._players)
            looked_s = beat_s = 0.0
            while True:
                batch, ended = self._take()
                if batch:
                    self._answer(ledger, batch)
                now_s = time.monotonic()
                if now_s - looked_s >= LOOK_S:
                    looked_s = now_s
                    with suppress(Unavailable):  # a full disk: later
                        ledger.end_silent()
                        ledger.keep()
                        if now_s - beat_s >= BEAT_S:
                            self._beat(store)
                            beat_s = now_s
                if ended:
                    return

    def _take(self) -> tuple[list[Asked], bool]:
        """What has come; waits a moment for the first. And whether it was the last."""
        batch: list[Asked] = []
        try:
            found = self._asked.get(timeout=LOOK_S)
            while found is not None:
                if found[2].set_running_or_notify_cancel():  # else nobody waits for it any more
                    batch.append(found)
                if len(batch) == TOGETHER:
                    return batch, False
                found = self._asked.get_nowait()
        except queue.Empty:
            return batch, False
        return batch, True

    def _answer(self, ledger: Ledger, batch: Sequence[Asked]) -> None:
        answers: list[Document | Exception] = []
        try:
            with ledger.store.write() as conn:
                for path, body, _ in batch:
                    answers.append(_one(ledger, path, body))
                    if not conn.in_transaction:  # SQLite has undone all of it: a full disk
                        raise Unavailable(str(answers[-1]))
                ledger.end_fenced()
        except PerdureError as error:
            ledger.undone()
            answers = [error] * len(batch)
        faults.point("before-answer")
        for (_, _, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _one(ledger: Ledger, path: str, body: Body) -> Document | Exception:
    try:
        with ledger.store.write():
            return ledger.answer(path, body)
    except PerdureError as error:
        return error
    except sqlite3.Error as error:  # a row that contradicts another one
        return RuntimeFailure(f"the store refuses it: {error}")
