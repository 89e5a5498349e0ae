"""The home: the folder that holds everything a run writes, and the lock that lets one process at a time run things in it.

Paths are computed when they are needed, never on import. `open_or_create` stands here too, because making a store needs the lock. Left out:
what is in the store (`memory/`).
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.memory.errors import InputError, RuntimeFailure

if TYPE_CHECKING:
    from perdure.memory.store import Store

HOME_VARIABLE = "PERDURE_HOME"
CACHE_VARIABLE = "PERDURE_CACHE"
DEFAULT_HOME = ".perdure"
NETWORK = re.compile(
    r"nfs4?|cifs|smb3|smbfs|ncpfs|afs|coda|ceph|lustre|beegfs|gpfs|ocfs2|gfs2|davfs"
    r"|fuse\.(sshfs|ceph|glusterfs|s3fs|gcsfuse|rclone|juicefs|davfs2)"
)
"""Kinds of file systems that several machines may write."""
PROBE_PATIENCE_S = 0.5
"""A command that checks the lock holds it for a moment itself; taking the lock is tried for this long."""


def default_home() -> Path:
    """The home if none is named: `PERDURE_HOME`, else `.perdure` in the working folder."""
    return Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser()


def cache_dir() -> Path:
    """Where models are kept, once per user: `PERDURE_CACHE`, else `perdure` in the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return _users_home() / "Library" / "Caches" / "perdure"
    named = os.environ.get("XDG_CACHE_HOME")
    return Path(named) / "perdure" if named else _users_home() / ".cache" / "perdure"


def _users_home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:  # no HOME, and a user number without a name, as in some containers
        raise InputError(f"this user has no home folder: name one for models in {CACHE_VARIABLE}") from error


class HomeBusy(InputError):
    """Another process runs things in this home."""


class HomeLock:
    """The right to run jobs, checkpoint and migrate in a home. A context manager; the kernel releases it when the process dies."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, and make the home if it is missing.

        Raises `HomeBusy` with the pid of the process that has it, `InputError` if the home is another program's, and `RuntimeFailure` if it
        cannot be written.
        """
        _refuse_foreign(self.home)
        refuse_network(self.home)
        path = _lock_path(self.home)
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise RuntimeFailure(
                f"cannot write to the home {self.home}: {error.strerror}; allow writing there, or name another folder with --home"
            ) from error
        if not _try_lock(descriptor, PROBE_PATIENCE_S):
            os.close(descriptor)
            raise HomeBusy(
                f"{self.home} is in use by process {lock_holder(self.home) or 'of another user'}: "
                "stop that one first, or name another folder with --home"
            )
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(descriptor)
            raise RuntimeFailure(f"cannot write to {path}: {error.strerror}; free some space, and try again") from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock. The file stays: removing it would let two processes lock two files of one name."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> HomeLock:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def lock_is_held(home: Path) -> bool:
    """Whether some process runs things in this home now."""
    try:
        descriptor = os.open(_lock_path(home), os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RuntimeFailure(f"cannot read {_lock_path(home)}: {error.strerror}; run as the user whose home it is") from error
    try:
        return not _try_lock(descriptor, 0.0, fcntl.LOCK_SH)  # shared: two checks do not disturb each other
    finally:
        os.close(descriptor)


def lock_holder(home: Path) -> int | None:
    """The process that holds the lock; None if none does or its number is not known."""
    if not lock_is_held(home):
        return None
    with suppress(OSError, ValueError):
        return int(_lock_path(home).read_text())
    return None


def open_or_create(home: Path) -> Store:
    """The store of a home, which is made if it is missing. For commands that write before anything has run."""
    from perdure.memory.store import FILE_NAME, create_store, open_store

    if not (home / FILE_NAME).exists():
        with HomeLock(home):
            create_store(home).close()
    return open_store(home)


def _lock_path(home: Path) -> Path:
    return home / "run" / "lock"


def _try_lock(descriptor: int, patience_s: float, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether the lock could be taken; closing the descriptor releases it."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The kind of file system of a folder, which need not exist yet, as in 'ext4'; empty if it is not known."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    found: dict[Path, str] = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), before.split()[4])  # a blank is written as \040
        found[Path(point)] = after.split()[0]  # of several on one folder the last is seen
    return next((found[place] for place in (folder, *folder.parents) if place in found), "")


def refuse_network(home: Path) -> None:
    """Refuse a home on a network file system before anything is written: SQLite's log and our lock need memory that all processes share."""
    kind = file_system_of(home)
    if NETWORK.fullmatch(kind):
        raise InputError(
            f"{home} is on a network file system ({kind}), where databases and locks are not safe: "
            "name a folder on a disk of this machine with --home; models may stay there"
        )


def _refuse_foreign(home: Path) -> None:
    """Refuse a store of another program, or of a newer Perdure, before a file is made beside it.

    Any other fault, such as an old schema, is left to `create_store`.
    """
    from perdure.memory.store import FILE_NAME, open_store

    if (home / FILE_NAME).exists():
        with suppress(RuntimeFailure):
            open_store(home).close()
