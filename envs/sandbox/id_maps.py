"""User ids of namespaces below another one whose /proc is read-only: a process outside writes them when asked.

    child of the host: unshares, sends a message with a pipe    ->    process that was started: writes uid_map and gid_map of the sender
    waits for a byte in the pipe                                <-    answers

The kernel states the sender's number, so that a process can ask for itself only, and it gets its own user and no other: nothing that an
environment could ask for gives it a right.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from errno import EPERM
from pathlib import Path

from perdure.envs.sandbox.system_calls import libc, require

CLONE_NEWPID = 0x20000000
SEPARATED, FIRST = b"s", b"f"
"""What is sent: by a process that has new namespaces; by the first one of a namespace for processes."""


def channel() -> tuple[socket.socket, socket.socket]:
    """The end that serves and the end that asks."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs


def ask(channel: socket.socket, what: bytes) -> None:
    """Ask for what this process needs, and wait until it is done. Raises `OSError` if it is not."""
    here, there = os.pipe()
    try:
        socket.send_fds(channel, [what], [there])
        os.close(there)
        done = os.read(here, 1)
    finally:
        os.close(here)
    if done != b"1":
        raise OSError(EPERM, "the ids of a namespace below cannot be written")


def serve(channel: socket.socket, most: int | None, outlive: int | None, on_outlive: Callable[[], None]) -> None:
    """Answer until no process is left that could ask. A byte in the pipe `outlive` is told to `on_outlive`.

    `most` is how many processes a namespace may have, if that can be limited.
    """
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    if outlive is not None:
        poll.register(outlive, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == outlive:
                if os.read(outlive, 1):
                    on_outlive()
                poll.unregister(outlive)
                continue
            message, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(12) + socket.CMSG_SPACE(64))
            if not message:
                return
            pipes = [number for _, kind, data in ancillary if kind == socket.SCM_RIGHTS for (number,) in struct.iter_unpack("i", data)]
            senders = [struct.unpack("3i", data)[0] for _, kind, data in ancillary if kind == socket.SCM_CREDENTIALS]
            with suppress(OSError):
                for pid in senders:
                    if message == SEPARATED:
                        write_ids(Path(f"/proc/{pid}"), os.getuid(), os.getgid())
                    elif most is not None:
                        _limit_processes(pid, most)
                for pipe in pipes[:1]:
                    os.write(pipe, b"1")
            for pipe in pipes:
                os.close(pipe)


def write_ids(process: Path, user: int, group: int) -> None:
    """Map this user and group to themselves, in the namespace of the process whose folder in /proc is given. Raises `OSError`."""
    with suppress(OSError):  # below another user namespace it is denied already
        (process / "setgroups").write_text("deny")
    for file, id_ in (("uid_map", user), ("gid_map", group)):
        (process / file).write_text(f"{id_} {id_} 1")


def _limit_processes(first: int, most: int) -> None:
    """Set how many processes there may be in the namespace of this first process. Raises `OSError`."""
    place = os.open(f"/proc/{first}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:  # a process cannot go back by itself, and only its children enter
        try:
            require(libc().setns(place, CLONE_NEWPID), "the namespace cannot be entered")
            inner = os.fork()
            if inner == 0:
                Path("/proc/sys/kernel/pid_max").write_text(str(most))
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
        finally:
            os._exit(1)
    os.close(place)
    if os.waitpid(pid, 0)[1]:
        raise OSError(EPERM, "the number of processes cannot be limited")
