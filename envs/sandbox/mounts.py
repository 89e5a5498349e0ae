"""The files that an environment sees: all of the machine's, read-only and without devices, and a folder of its own that it may change.

Called in a mount namespace of its own, before any code of the environment runs. All raise `OSError`.
"""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import suppress
from pathlib import Path

from perdure.envs.sandbox.system_calls import libc, require

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 0x1000, 0x2000, 0x4000, 0x40000
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
GPUS = ("nvidia*", "dri", "kfd")
LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"}
MOST_SHARED_MEMORY = b"size=256m,mode=1777"


def make_read_only(folder: Path) -> None:
    """Make all files but those in this folder read-only, and leave few devices: those that every program needs, and GPUs.

    In a user namespace below this one these attributes are locked: nobody there can clear them.
    """
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    devices = folder / "dev"
    devices.mkdir()
    _mount("tmpfs", devices, "tmpfs", MS_NOSUID, b"size=1m,mode=755")
    machine = Path("/dev")
    bound = [name for name in DEVICES if (machine / name).exists()]
    bound += [path.name for pattern in GPUS for path in machine.glob(pattern)]
    for name in bound:
        if (machine / name).is_dir():
            (devices / name).mkdir()
        else:
            (devices / name).touch()
        _mount(machine / name, devices / name, None, MS_BIND | MS_REC)
    for name, target in LINKS.items():
        (devices / name).symlink_to(target)
    for name in ("pts", "shm"):
        (devices / name).mkdir()
    with suppress(OSError):  # terminals of its own; a program that wants one fails without
        _mount("devpts", devices / "pts", "devpts", MS_NOSUID | MS_NOEXEC, b"newinstance,ptmxmode=0666,mode=0620")
        bound.append("pts")
    _mount(devices, machine, None, MS_MOVE)
    devices.rmdir()
    _mount(folder, folder, None, MS_BIND)
    _set_attributes("/", AT_RECURSIVE, on=MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
    _set_attributes(folder, 0, off=MOUNT_ATTR_RDONLY)
    for name in bound:
        _set_attributes(machine / name, AT_RECURSIVE, off=MOUNT_ATTR_NODEV)
    new_shared_memory()


def new_shared_memory() -> None:
    _mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, MOST_SHARED_MEMORY)


def show_own_processes(read_only: bool = True) -> None:
    """Mount a /proc of the own namespace for processes."""
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | (MS_RDONLY if read_only else 0))


def close_proc() -> None:
    """Make /proc read-only."""
    _set_attributes("/proc", 0, on=MOUNT_ATTR_RDONLY)


def _mount(source: str | Path | None, target: str | Path, kind: str | None, flags: int, data: bytes | None = None) -> None:
    result = libc().mount(
        None if source is None else os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        data,
    )
    require(result, f"{target} cannot be mounted")


def _set_attributes(place: str | Path, flags: int, on: int = 0, off: int = 0) -> None:
    attributes = struct.pack("4Q", on, off, 0, 0)
    result = libc().syscall(MOUNT_SETATTR, AT_FDCWD, os.fsencode(place), flags, attributes, ctypes.c_size_t(len(attributes)))
    require(result, f"{place} cannot be made read-only")
