"""Folders of versions that nothing needs any more, and removing them. Which versions are needed: `memory/upkeep/garbage.py`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from perdure.agent.changes.file_changes import note
from perdure.agent.supervision.disk import size_bytes
from perdure.memory.changes import Who
from perdure.memory.errors import RuntimeFailure
from perdure.memory.store import Store
from perdure.memory.upkeep.garbage import removable_versions
from perdure.memory.versions import list_versions

BEING_MADE_S = 3600.0
"""A folder without a version may be unfinished; after this time it is waste."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """A folder under `versions/` that nothing needs any more."""

    folder: Path
    size_bytes: int
    why: str


def waste(store: Store) -> Iterator[Waste]:
    """What can be removed, by name."""
    owners = {one.path: one.name for one in list_versions(store) if one.path is not None}
    unneeded = removable_versions(store)
    root = store.home / "versions"
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        owner = owners.get(f"versions/{folder.name}")
        if owner in unneeded:
            yield Waste(folder=folder, size_bytes=size_bytes(folder), why=f"{owner}: {unneeded[owner]}")
        elif owner is None and time.time() - folder.lstat().st_mtime > BEING_MADE_S:
            yield Waste(folder=folder, size_bytes=size_bytes(folder), why="no version: its job was interrupted")


def remove_waste(store: Store, by: Who, found: Sequence[Waste]) -> None:
    """Remove these folders. For the holder of the home's lock. Raises `RuntimeFailure` if one cannot be removed."""
    note(store, by, "version gc", f"{len(found)} folders", {"folders": [one.folder.name for one in found]})
    for one in found:
        _remove(one.folder)


def _remove(folder: Path) -> None:
    """Renames it first, so that a version is never half there."""
    doomed = folder.with_name(f".removed-{folder.name.lstrip('.')}")
    try:
        folder.rename(doomed)
        if doomed.is_dir() and not doomed.is_symlink():
            shutil.rmtree(doomed)
        else:
            doomed.unlink()
    except OSError as error:
        raise RuntimeFailure(f"cannot remove {folder}: {error.strerror}; allow writing there, and run it again") from error
