"""Limits and Linux namespaces for the process of an environment, set before any code of the environment runs in it.

    outside                      namespaces of the environment      namespaces of an episode
    -------                      -----------------------------      ------------------------
    process that was started ->  first process -> host -> process ->  first process -> worker

The first process of a namespace for processes only waits: when it ends, the kernel ends all others in it. Those cannot name any process
outside, and cannot signal it. Host and workers have no capabilities, and see all files of the machine read-only (`mounts.py`). A worker's
user namespace is below its host's, where the kernel locks these mounts.

Where namespaces cannot be had, `obstacle` says why. The process that was started is then the host, its children are workers, and nothing
of this holds: only `sandbox.unconfined` allows that.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import resource
import shutil
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from perdure.envs.sandbox.id_maps import FIRST, SEPARATED, ask, channel, serve, write_ids
from perdure.envs.sandbox.mounts import close_proc, make_read_only, new_shared_memory, show_own_processes
from perdure.envs.sandbox.system_calls import drop_capabilities, filter_calls, keep_to, libc, require

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
CLONE_ALL = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID

MOST_FILE_BYTES = 256 * 2**20
"""Of a file that an environment writes; its output is one."""

MOST_IN_EPISODE, MOST_IN_ALL = 512, 4096
"""Processes and threads of one episode, and of all episodes of an environment at once. Linux limits them by namespace from 6.14 on for
root (the limit is at least 301), and by user namespace from 5.14 on for all other users."""

NOT_BEGUN = 121
"""The exit code of a worker that could not be confined; its last line says why."""
THREADS = (
    "what it imports or makes while it is loaded starts threads in every fork, so that no episode can be confined; call "
    "torch.set_num_threads and the like in reset()"
)
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


def obstacle() -> str:
    """Why processes cannot be confined on this machine, tried in a child; empty if they can."""
    if sys.platform != "linux":
        return "only Linux has namespaces"
    try:
        folder = Path(tempfile.mkdtemp(prefix="perdure-env-"))
    except OSError as error:
        return f"no temporary folder can be made: {error.strerror}"
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            ours, theirs = channel()
            libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            _separate(CLONE_ALL | CLONE_NEWNET)
            if (first := os.fork()) == 0:
                ours.close()
                _confine(folder)
                if os.fork() == 0:
                    _separate_below(theirs)
                    if os.fork() == 0:
                        _begin_as_first(theirs)
                        os._exit(0)
                _exit_as_child()
            theirs.close()
            serve(ours, _most_in_episode(), None, _outlive)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]))
        except BaseException as error:  # noqa: BLE001 - the answer
            os.write(there, str(error.strerror if isinstance(error, OSError) else error).encode())
        finally:
            os._exit(1)
    os.close(there)
    with os.fdopen(here) as reason:
        said = reason.read()
    failed = os.waitpid(pid, 0)[1] != 0
    for left in (folder / "dev", folder):
        with suppress(OSError):
            left.rmdir()
    return (said or "its first process ended") if failed else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confined:
    """What a confined process can ask for."""

    ids: socket.socket
    outlive: Callable[[], None]
    """To call when this process notices by itself that its parent has ended: until then the kernel ends it with its parent."""


def enter(parent: int, network: bool, folder: Path) -> Confined:
    """Continue in namespaces of the environment's own, with all files read-only but those in `folder`. The process that was started stays
    behind, and ends as this one does. Raises `OSError` where `obstacle` would name one."""
    ours, theirs = channel()
    libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    die_with(parent)
    _separate(CLONE_ALL | (0 if network else CLONE_NEWNET))
    if not network:
        _bring_loopback_up()
    _limit_processes(MOST_IN_ALL)
    here, there = os.pipe()
    first = os.fork()
    if first:
        os.close(there)
        theirs.close()
        serve(ours, _most_in_episode(), here, _outlive)
        _end_as(first, folder)  # the host cannot remove it: there it is a mount
    ours.close()
    die_with(0)
    _confine(folder)
    _wait_for_child()
    libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.close(here)

    def outlive() -> None:
        os.write(there, b"1")
        os.close(there)

    return Confined(ids=theirs, outlive=outlive)


def stay(parent: int) -> Callable[[], None]:
    """Instead of `enter`: continue with the limits alone."""
    if sys.platform != "linux":
        return lambda: None
    libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    die_with(parent)
    libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return _outlive


def begin_episode(host: int, ids: socket.socket) -> None:
    """Continue in namespaces of an episode, in a child of its host that has forked nothing yet. This child stays behind, and ends as the
    worker does. Ends with `NOT_BEGUN` if it cannot be confined."""
    try:
        os.setsid()
        die_with(host)
        _separate_below(ids)
        _limit_processes(MOST_IN_EPISODE)
        first = os.fork()
        if first:
            _end_as(first)
        die_with(0)
        _begin_as_first(ids)
        ids.close()
        _wait_for_child()
    except OSError as error:
        os.write(2, f"{THREADS if len(os.listdir('/proc/self/task')) > 1 else error}\n".encode())
        os._exit(NOT_BEGUN)


def keep_to_folder(folder: Path) -> None:
    """Let this process write to no pipes and sockets of the machine, and to no files but these, if the kernel offers that (Landlock)."""
    keep_to((folder, Path("/dev/shm"), Path("/dev/pts")), Path("/dev"))


def as_ended(status: int) -> int:
    """The wait status of a process, from that of the first process above it."""
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
    return code - BY_SIGNAL if code > BY_SIGNAL else status


def die_with(parent: int) -> None:
    """End when the parent ends, even if it is killed while this process is busy. The parent of a first process is 0."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _separate(namespaces: int) -> None:
    """Continue in new namespaces, as the same user; the next child is the first process of the one for processes."""
    user, group = os.getuid(), os.getgid()  # without ids the namespace has nobody
    require(libc().unshare(namespaces), "namespaces cannot be had")
    write_ids(Path("/proc/self"), user, group)


def _separate_below(ids: socket.socket) -> None:
    """The same, below a namespace whose /proc is read-only."""
    require(libc().unshare(CLONE_ALL), "namespaces for an episode cannot be had")
    ask(ids, SEPARATED)


def _begin_as_first(ids: socket.socket) -> None:
    """As the first process of an episode."""
    show_own_processes()
    new_shared_memory()
    if _most_in_episode() is not None:
        ask(ids, FIRST)
    drop_capabilities()


def _most_in_episode() -> int | None:
    """The limit on processes by namespace, if there is one: before, it held for the whole machine."""
    return MOST_IN_EPISODE if os.getuid() == 0 and _kernel() >= (6, 14) else None


def _exit_as_child() -> NoReturn:
    """Wait for the only child, and end as it did."""
    os._exit(min(abs(os.waitstatus_to_exitcode(os.wait()[1])), 255))


def _confine(folder: Path) -> None:
    """As the first process: files, processes, capabilities, system calls."""
    require(libc().unshare(CLONE_NEWNS), "mounts cannot be had")  # the process that was started keeps its own, with a /proc to write to
    make_read_only(folder)
    show_own_processes(read_only=False)
    if _most_in_episode() is not None:
        Path("/proc/sys/kernel/pid_max").write_text(str(MOST_IN_ALL))
    close_proc()
    drop_capabilities()
    filter_calls()


def _wait_for_child() -> None:
    """Become a process that only waits. Only its child returns."""
    try:
        pid = os.fork()
    except OSError:  # the callers must not continue as if this were the child
        os._exit(1)
    if pid:
        _end_as(pid)


def _limit_processes(most: int) -> None:
    if _kernel() >= (5, 14):  # before, all other processes of the user count too
        _set_limit(resource.RLIMIT_NPROC, most)


def _end_as(child: int, folder: Path | None = None) -> NoReturn:
    """Wait for this child, and for orphans that the kernel hands over, and end as it does, with all descriptors closed and this folder
    removed."""
    os.closerange(0, 2**20)
    for number in signal.valid_signals():
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)  # a handler may run code of an environment
    ended, status = 0, 0
    with suppress(ChildProcessError):
        while ended != child:
            ended, status = os.wait()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
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
