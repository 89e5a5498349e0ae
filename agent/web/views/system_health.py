"""How the machine and the processes are: disk by part against the budget, memory, processes, the last errors, and the ends of the logs.

Left out: what the daemon does about it (`agent/supervision/disk.py`, `agent/supervision/keepers.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from perdure import __version__
from perdure.agent.cluster.cluster_report import cluster_report, is_piece
from perdure.agent.config import DiskSection
from perdure.agent.processes.process_names import SUPERVISOR
from perdure.agent.show.daemon_health import activity, troubles
from perdure.agent.supervision.disk import GIB, DiskUse, disk_lack, free_bytes, size_bytes
from perdure.memory.json_value import Document, iso_utc
from perdure.memory.processes import CONFINEMENT, Process, events_of, last_event, processes
from perdure.memory.schema import MIGRATIONS
from perdure.memory.store import ARCHIVE, FILE_NAME, Store

ERRORS = ("death", "error", "given up", "interrupted", "lease lost", "damaged", "anchor missing", "disk", "warning")
"""Kinds of events that say that something went wrong."""
LOGS = 20
"""Files of logs that are shown, the newest first."""
TAIL_BYTES = 16_384
"""Of a log that are read."""


def system_document(store: Store, disk: DiskSection, *, lines: int = 40, errors: int = 20) -> Document:
    """With the last `lines` of each log, and the last `errors` events that say that something went wrong."""
    known = processes(store)
    state, reason, started = activity(store, next((one for one in known if one.name == SUPERVISOR), None))
    confinement, cluster = last_event(store, CONFINEMENT), cluster_report({one.name: one for one in known})
    return {
        "disk": _disk(store.home, disk),
        "memory": _memory(),
        "processes": [_process(one) for one in known if not is_piece(one)],
        "cluster": None if cluster is None or started is None else cluster.as_json(),
        "troubles": troubles(store, state, reason, started),
        "confinement": None if confinement is None else confinement.message,
        "errors": [event.as_json() for event in events_of(store, ERRORS, errors)],
        "logs": [_log(file, lines) for file in _logs(store.home / "logs")],
        "release": __version__,
        "schema": len(MIGRATIONS),
    }


def _disk(home: Path, settings: DiskSection) -> Document:
    log = home / f"{FILE_NAME}-wal"
    parts = {
        "database": _file_bytes(home / FILE_NAME),
        "log of the database": _file_bytes(log) + _file_bytes(home / f"{FILE_NAME}-shm"),
        **{name: size_bytes(home / name) for name in ("versions", ARCHIVE, "logs")},
    }
    home_bytes, free = size_bytes(home), free_bytes(home)
    parts["other"] = max(home_bytes - sum(parts.values()), 0)
    lack = disk_lack(settings, DiskUse(home_bytes=home_bytes, free_bytes=free))
    budget = round(settings.budget_gib * GIB) or None
    return {
        "parts": parts,
        "home_bytes": home_bytes,
        "free_bytes": free,
        "budget_bytes": budget,
        "floor_bytes": round(settings.floor_gib * GIB),
        "share": None if budget is None else home_bytes / budget,
        "learning_stops": lack.learn,
        "play_stops": lack.play,
    }


def _file_bytes(file: Path) -> int:
    """On the disk; 0 if it is not there."""
    try:
        return file.lstat().st_blocks * 512
    except OSError:
        return 0


def _memory() -> Document | None:
    """Of the machine, as Linux tells it; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.split()[:1]}
    if "MemTotal" not in kib or "MemAvailable" not in kib:
        return None
    return {"total_bytes": kib["MemTotal"] * 1024, "available_bytes": kib["MemAvailable"] * 1024}


def _process(process: Process) -> Document:
    alive = _is_alive(process.pid)
    return {**process.as_json(), "alive": alive, "memory_bytes": _resident_bytes(process.pid) if alive else None}


def _is_alive(pid: int) -> bool:
    """Whether a process of this number runs; that of another user counts too."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _resident_bytes(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _logs(folder: Path) -> Iterator[Path]:
    """The newest ones, the newest first; links are left out, since they may lead out of the home."""
    try:
        files = [entry for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
        files.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime, reverse=True)
    except OSError:
        return
    yield from (Path(entry.path) for entry in files[:LOGS])


def _log(file: Path, lines: int) -> Document:
    try:
        with file.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            changed: str | None = iso_utc(os.fstat(log.fileno()).st_mtime)
            log.seek(max(size - TAIL_BYTES, 0))
            text = log.read(TAIL_BYTES).decode("utf-8", "replace")
    except OSError as error:
        return {"name": file.name, "size_bytes": 0, "changed": None, "lines": [f"cannot be read: {error.strerror}"]}
    found = text.splitlines()
    whole = found[1:] if size > TAIL_BYTES and len(found) > 1 else found
    return {"name": file.name, "size_bytes": size, "changed": changed, "lines": whole[-lines:] if lines else []}
