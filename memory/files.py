"""Files that are either complete or absent, also after a power cut, and whose content can be verified.

The folder of a version has a manifest with the sha256 of each of its files; the hash of the version is the manifest's. Left out: what the
files contain (`learners/weights/adapters.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from perdure.memory.errors import InputError, RuntimeFailure

MANIFEST = "manifest.json"
MAKING = ".making-"
"""The prefix of unfinished files and folders. One that stays belongs to a process that died."""


def publish(made: Path, final: Path) -> None:
    """Sync the finished file or folder `made` to the disk, then rename it to `final`. Replaces a file of that name.

    Raises `OSError`, also if `final` is a folder that is not empty.
    """
    for path in (*(made.iterdir() if made.is_dir() else ()), made):
        _fsync(path)
    made.rename(final)
    _fsync(final.parent)


@contextmanager
def making(final: Path, *, replace: bool) -> Iterator[Path]:
    """A path to write a file to. It is renamed to `final` when the block ends without an error, and removed otherwise.

    Raises `InputError` if `final` exists and `replace` is False, and `RuntimeFailure` if it cannot be written.
    """
    made = final.with_name(f"{MAKING}{final.name}-{os.getpid()}") if final.name else final
    try:
        if final.is_dir() and not final.is_symlink():
            raise InputError(f"{final} is a folder: name a file in it")
        if final.is_symlink() or (final.exists() and not final.is_file()):  # renaming over it would destroy it: a device, a pipe, a link
            raise InputError(f"{final} is no ordinary file, and is not replaced: name another one")
        if final.exists() and not replace:
            raise InputError(f"{final} exists already: name another file, or give --force to replace it")
        if not final.parent.is_dir():
            raise InputError(f"{final.parent} is not a folder: make it first, or name another file")
        remove_unfinished(final)
        try:
            yield made
            publish(made, final)
        finally:
            made.unlink(missing_ok=True)
    except OSError as error:
        raise RuntimeFailure(f"could not write {final}: {error.strerror or error}; nothing was written") from error


def remove_unfinished(final: Path) -> None:
    """Remove the unfinished files and folders for `final` that dead processes have left."""
    name = re.compile(re.escape(f"{MAKING}{final.name}-") + r"(\d+)(-journal|-wal|-shm)?")
    for left in final.parent.iterdir():
        match = name.fullmatch(left.name)
        if match and not _is_alive(int(match[1])):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def manifest_hash(folder: Path) -> str:
    """The hash of a version: the sha256 of its manifest, which has the hashes of its files and its base model."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderManifest:
    """The manifest in the folder of a version."""

    base_model: str
    base_hash: str
    files: tuple[str, ...]


def check_files(folder: Path, expected_hash: str) -> FolderManifest:
    """A version's manifest, after checking it against `expected_hash` and every file against it.

    Raises `RuntimeFailure` if a file is missing or changed.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest_hash(folder) != expected_hash:
            raise RuntimeFailure(f"the manifest in {folder} is not the one in the database: restore it from a backup, or roll back")
        for name, entry in manifest["files"].items():
            if sha256_of(folder / name) != entry["sha256"]:
                raise RuntimeFailure(f"{folder / name} was changed or damaged (sha256 differs): restore it from a backup, or roll back")
        return FolderManifest(base_model=manifest["base_model"], base_hash=manifest["base_hash"], files=tuple(manifest["files"]))
    except (OSError, ValueError, KeyError) as error:
        raise RuntimeFailure(f"the adapter in {folder} cannot be read ({error}): restore it from a backup, or roll back") from error


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it belongs to another user
    return True


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
