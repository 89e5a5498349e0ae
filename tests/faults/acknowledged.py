"""What a journal has acknowledged, written down outside the database, so that the two can be compared after a crash.

A line is written in one piece with O_APPEND *after* `journal.turns` or `journal.finish` has returned: the process that wrote it, the
monotonic time, the episode, and either the number of a turn with a checksum of its tokens and log-probs, or `=` with the state in which
the episode ended.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from perdure.envs.rollout import Journal
from perdure.memory.layout.blobs import pack_ids, pack_logprobs
from perdure.memory.records import Ending, EpisodePlan, Turn
from perdure.memory.store import Store


def acknowledgements_of(home: Path) -> Path:
    """The side file of a home."""
    return home.parent / "acknowledged"


def checksum(action_ids: bytes, logprobs: bytes) -> int:
    """Of a turn, from its blobs."""
    return zlib.crc32(logprobs, zlib.crc32(action_ids))


class AcknowledgingJournal:
    """A journal whose acknowledgements are written down."""

    def __init__(self, journal: Journal, path: Path) -> None:
        self._journal = journal
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def start(self, plans: Sequence[EpisodePlan]) -> list[int]:
        return self._journal.start(plans)

    def turns(self, entries: Sequence[tuple[int, int, Turn]]) -> None:
        self._journal.turns(entries)
        self._say([f"{episode} {n} {checksum(pack_ids(t.action_ids), pack_logprobs(t.logprobs))}" for episode, n, t in entries])

    def finish(self, endings: Sequence[Ending]) -> None:
        self._journal.finish(endings)
        self._say([f"{ending.episode} = {ending.state}" for ending in endings])

    def _say(self, facts: Sequence[str]) -> None:
        head = f"{os.getpid()} {time.monotonic():.6f}"
        os.write(self._descriptor, "".join(f"{head} {fact}\n" for fact in facts).encode())


def acknowledging(journal: Journal, store: Store) -> Journal:
    return AcknowledgingJournal(journal, acknowledgements_of(store.home))


@dataclass(slots=True)
class Acknowledgements:
    """The side file as it is read, further at each `read`."""

    path: Path
    turns: dict[tuple[int, int], int] = field(default_factory=dict)
    """Checksums by episode and turn."""
    endings: dict[int, str] = field(default_factory=dict)
    times: list[tuple[int, float]] = field(default_factory=list)
    """Who acknowledged turns, and when (seconds, monotonic), in order."""
    _offset: int = 0

    def read(self) -> None:
        """Take up what is new. A last line without its end is left for later."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole, newline, _ = data.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.decode().splitlines():
            pid, at, episode, n, fact = line.split()
            if n == "=":
                self.endings[int(episode)] = fact
            else:
                self.turns[int(episode), int(n)] = int(fact)
                self.times.append((int(pid), float(at)))
