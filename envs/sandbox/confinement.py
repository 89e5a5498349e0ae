"""Limits and Linux namespaces for the process of an environment, set before any code of the environment runs in it.

    outside                      namespace of the environment      namespace of an episode
    -------                      ----------------------------      -----------------------
    process that was started ->  first process -> host         ->  first process -> worker

The first process of a namespace for processes only waits: when it ends, the kernel ends all others in it. Those cannot name any process
outside, and cannot signal it. What the system does not offer is left out (`docs/environments.md` says what that means): without namespaces
for processes, the process that was started is the host, and its children are workers.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 0x1000, 0x4000, 0x40000
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1

MOST_FILE_BYTES = 256 * 2**20
"""Of a file that an environment writes; its output is one."""

MOST_IN_EPISODE, MOST_IN_ALL = 512, 4096
"""Processes and threads of one episode, and of all episodes of an environment at once. Linux limits them by namespace from 6.14 on for
root (the limit is at least 301), and by user namespace from 5.14 on for all other users."""

BY_SIGNAL = 128
"""A first process cannot end by the signal that ended its child: its exit code is this plus the signal's number, as in a shell."""


def limit(memory_mib: int) -> None:
    """Limit this process and the processes that it starts."""
    for what, value in (
        (resource.RLIMIT_AS, memory_mib * 2**20),
        (resource.RLIMIT_FSIZE, MOST_FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        _set_limit(what, value)


def enter(parent: int, network: bool) -> tuple[int | None, Callable[[], None]]:
    """Continue in namespaces of the environment's own. The process that was started stays behind, and ends as this one does.

    Returns the descriptor of the process namespace, or None if there is none; and a function to call when this process notices by itself
    that its parent has ended: until then the kernel ends it with its parent.
    """
    if sys.platform != "linux":
        return None, lambda: None
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    die_with(parent)
    user, group = os.getuid(), os.getgid()
    if library.unshare(CLONE_NEWUSER | (0 if network else CLONE_NEWNET)) == 0:
        for file, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with suppress(OSError):
                Path(f"/proc/self/{file}").write_text(line)
        if not network:
            _bring_loopback_up()
        if _kernel() >= (5, 14):  # before, all other processes of the user count too
            _set_limit(resource.RLIMIT_NPROC, MOST_IN_ALL)
    if library.unshare(CLONE_NEWPID) != 0:
        library.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        return None, _outlive
    here, there = os.pipe()
    first = os.fork()
    if first:
        os.close(there)
        if os.read(here, 1):
            _outlive()
        _end_as(first)
    _be_first(MOST_IN_ALL)
    library.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.close(here)

    def outlive() -> None:
        os.write(there, b"1")
        os.close(there)

    return os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC), outlive


def forked(namespace: int | None) -> int:
    """Fork, as `os.fork` does. If this process has a process namespace the child gets one too; the number is that of its first process.

    Raises `OSError` if there can be no other process.
    """
    if namespace is None:
        return os.fork()
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(CLONE_NEWPID) != 0:
        raise OSError(ctypes.get_errno(), "a namespace for its processes cannot be made")
    own = os.getpid()
    try:
        pid = os.fork()
    finally:
        if os.getpid() == own and library.setns(namespace, CLONE_NEWPID) != 0:  # back to the own one, for the next fork
            raise OSError(ctypes.get_errno(), "the namespace of its processes cannot be left")
    if pid == 0:
        os.setsid()
        _be_first(MOST_IN_EPISODE)
    return pid


def as_ended(status: int) -> int:
    """The wait status of a process, from that of the first process above it."""
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
    return code - BY_SIGNAL if code > BY_SIGNAL else status


def die_with(parent: int) -> None:
    """End when the parent ends, even if it is killed while this process is busy. The parent of a first process is 0."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def write_only_to(folder: Path, namespace: int | None) -> None:
    """Make all other files read-only, if the kernel allows that; shared memory is new, and /proc shows the own namespace."""
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if library.unshare(CLONE_NEWNS) or library.mount(None, b"/", None, MS_REC | MS_PRIVATE, None):
        return
    path = bytes(folder)

    def set_attributes(place: bytes, flags: int, on: int, off: int) -> bool:
        attributes = struct.pack("4Q", on, off, 0, 0)
        return bool(library.syscall(MOUNT_SETATTR, AT_FDCWD, place, flags, attributes, ctypes.c_size_t(len(attributes))) == 0)

    if library.mount(path, path, None, MS_BIND, None) == 0 and set_attributes(b"/", AT_RECURSIVE, MOUNT_ATTR_RDONLY, 0):
        set_attributes(path, 0, 0, MOUNT_ATTR_RDONLY)
        library.mount(b"tmpfs", b"/dev/shm", b"tmpfs", MS_NOSUID | MS_NODEV, b"size=256m")
        if namespace is not None:
            library.mount(b"proc", b"/proc", b"proc", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, None)


def _be_first(most: int) -> None:
    """Become the first process of a namespace with at most `most` processes. Only its child returns."""
    die_with(0)
    if os.getuid() == 0 and _kernel() >= (6, 14):  # before, this limit held for the whole machine
        with suppress(OSError):
            Path("/proc/sys/kernel/pid_max").write_text(str(most))
    try:
        pid = os.fork()
    except OSError:  # the callers must not continue as if this were the child
        os._exit(1)
    if pid:
        _end_as(pid)


def _end_as(child: int) -> NoReturn:
    """Wait for this child, and for orphans that the kernel hands over, and end as it does, with all descriptors closed."""
    os.closerange(0, 2**20)
    for number in signal.valid_signals():
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)  # a handler may run code of an environment
    ended, status = 0, 0
    with suppress(ChildProcessError):
        while ended != child:
            ended, status = os.wait()
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else BY_SIGNAL + os.WTERMSIG(status))


def _outlive() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)


def _kernel() -> tuple[int, ...]:
    """The version of the kernel."""
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


def _set_limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(ValueError, OSError):
        resource.setrlimit(what, (value, value))


def _bring_loopback_up() -> None:
    """Give the empty network of this process a loopback, so that it can reach its own servers."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
