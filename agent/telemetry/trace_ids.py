"""One id for all that a version is about: the job that makes it, that job's episodes, updates and gates, its moves, and what it plays.

The id has the form of W3C's trace ids, 32 hexadecimal digits, and follows from the home and the job alone: every process comes to the same.
A job that judges a version which another job has made belongs to that one. The base model and imported versions have ids of their own.
Left out: what is no work of a version, such as the state of a process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from perdure.memory.processes import home_began
from perdure.memory.store import Store


class Traces:
    """The ids of one home. Belongs to the thread that opened its store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = ""

    def of(self, ids: Mapping[str, int | str | None]) -> str | None:
        """The id of what has these ids (`episode`, `job`, `version`, ...); None if it is about no job and no version."""
        job, version = ids.get("job"), ids.get("version")
        if isinstance(job, int):
            kind, of = self._of_job(job)
        elif isinstance(version, str):
            kind, of = self._of_version(version)
        else:
            return None
        self._key = self._key or home_key(self._store)
        return f"{trace_id(self._key, kind, of):032x}"

    def _of_job(self, number: int) -> tuple[str, int | str]:
        for row in self._store.rows("SELECT candidate FROM job WHERE id = ? AND candidate IS NOT NULL", (number,)):
            return self._of_version(row["candidate"])
        return "job", number

    def _of_version(self, name: str) -> tuple[str, int | str]:
        for row in self._store.rows("SELECT job FROM version WHERE name = ? AND job IS NOT NULL", (name,)):
            return "job", row["job"]
        return "version", name


def trace_id(key: str, kind: str, of: int | str) -> int:
    """128 bits that follow from what the trace is about."""
    return int.from_bytes(hashlib.sha256(f"trace {key} {kind} {of}".encode()).digest()[:16]) or 1


def home_key(store: Store) -> str:
    """Tells this home from others, also after it was moved."""
    return f"{home_began(store):.6f}"
