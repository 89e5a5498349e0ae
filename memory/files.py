"""Files that are there whole or not at all, also after a power cut, and that are what they were when they were written.

The folder of a version holds a manifest with the sha256 of each of its files; the version's hash is that of the manifest. Left out: what
is in those files (`learners/weights/adapters.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perdure.memory.errors import InputError, RuntimeFailure

MANIFEST = "manifest.json"
MAKING = ".making-"
"""How the names of files and folders begin that are not finished. Where one is left, its process died."""


def publish(made: Path, final: Path) -> None:
    """Name the finished file or folder `made` `final` once all in it is on the disk. A file takes the place of another.

    Raises `OSError`, also where `final` is a folder with content.
    """
    for path in (*(made.iterdir() if made.is_dir() else ()), made):
        _fsync(path)
    made.rename(final)
    _fsync(final.parent)


@contextmanager
def making(final: Path, *, replace: bool) -> Iterator[Path]:
    """A name to write a file to, which becomes `final` when the block ends well; otherwise nothing is left of it.

    Raises `InputError` where `final` exists and is not to be replaced, `RuntimeFailure` where it cannot be written.
    """
    made = final.with_name(f"{MAKING}{final.name}-{os.getpid()}") if final.name else final
    try:
        if final.is_dir():
            raise InputError(f"{final} is a folder: name a file in it")
        if final.exists() and not replace:
            raise InputError(f"{final} exists already: name another file, or give --force to replace it")
        if not final.parent.is_dir():
            raise InputError(f"{final.parent} is no folder: make it first, or name another file")
        remove_unfinished(final)
        try:
            yield made
            publish(made, final)
        finally:
            made.unlink(missing_ok=True)
    except OSError as error:
        raise RuntimeFailure(f"could not write {final}: {error.strerror or error}; nothing of it was kept") from error


def remove_unfinished(final: Path) -> None:
    """Remove what processes that are dead by now have left of their tries to make `final`."""
    name = re.compile(re.escape(f"{MAKING}{final.name}-") + r"(\d+)(-journal|-wal|-shm)?")
    for left in final.parent.iterdir():
        found = name.fullmatch(left.name)
        if found and not _is_alive(int(found[1])):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def manifest_hash(folder: Path) -> str:
    """The hash that names a version's content: sha256 of its manifest, which holds those of its files and its base."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def check_files(folder: Path, expected_hash: str) -> dict[str, Any]:
    """A version's manifest, after checking it against `expected_hash` and every file against it.

    Raises `RuntimeFailure` where a file is missing or changed.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        if manifest_hash(folder) != expected_hash:
            raise RuntimeFailure(f"{folder} has another manifest than the database says: restore it from a backup, or roll back")
        for name, entry in manifest["files"].items():
            if sha256_of(folder / name) != entry["sha256"]:
                raise RuntimeFailure(f"{folder / name} was changed or damaged (sha256 differs): restore it from a backup, or roll back")
    except (OSError, ValueError, KeyError) as error:
        raise RuntimeFailure(f"the adapter in {folder} cannot be read ({error}): restore it from a backup, or roll back") from error
    return manifest


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    return True


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
