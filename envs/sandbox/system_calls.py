"""What a process of an environment may ask of the kernel: no capabilities, few sockets, and no files but its own.

Each function holds for this process and all that it starts, and cannot be undone. All raise `OSError`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable
from contextlib import suppress
from errno import EACCES, ENOSYS, EPERM
from pathlib import Path

PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 22, 24, 38, 47, 4
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION = 0x20080522
CAPSET = {"x86_64": 126, "aarch64": 91}

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
SOCKET = {"x86_64": 41, "aarch64": 198}
SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
UNSHARE = {"x86_64": 272, "aarch64": 97}
KEYS = {"x86_64": (248, 249, 250), "aarch64": (217, 218, 219)}
"""add_key, request_key, keyctl: the keys of the kernel belong to the session of the user."""
IO_URING_SETUP = 425
"""Its requests are not filtered."""
X32_BIT = 0x40000000
AF_UNIX, SOCK_STREAM, SOCK_SEQPACKET, SOCK_TYPE = 1, 1, 5, 0xF

LOAD, JUMP_EQUAL, JUMP_FROM, RETURN, AND = 0x20, 0x15, 0x35, 0x06, 0x54
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
NUMBER, ARCH, FIRST, SECOND = 0, 4, 16, 24
"""Offsets in `struct seccomp_data`; arguments by their low half (both machines are little-endian)."""

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_VERSION, LANDLOCK_PATH_BENEATH = 1, 1
LANDLOCK_WRITE_FILE, LANDLOCK_CHANGES, LANDLOCK_TRUNCATE = 1 << 1, sum(1 << bit for bit in range(4, 14)), 1 << 14
LANDLOCK_ABSTRACT_SOCKETS = 1


def require(result: int, what: str) -> int:
    """The result of a call of the C library. Raises `OSError` if it is negative."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def drop_capabilities() -> None:
    """Give up all capabilities, for programs that are started as root too."""
    library = libc()
    for number in range(64):
        if library.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            break  # the last one is behind, or this process has none to drop any
    library.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header, none = struct.pack("Ii", CAPABILITY_VERSION, 0), bytes(24)
    require(library.syscall(CAPSET[platform.machine()], header, none), "capabilities cannot be dropped")


def filter_calls(refused: Iterable[int] = ()) -> None:
    """Refuse UNIX sockets that could be connected by name (those of the machine have paths here), keys of the kernel, io_uring and
    `refused`. Pairs of stream sockets remain: they are connected already."""
    machine = platform.machine()
    if machine not in AUDIT_ARCH:
        raise OSError(ENOSYS, f"no filter of system calls is written for {machine}")

    def step(code: int, yes: int, no: int, k: int) -> bytes:
        return struct.pack("HBBI", code, yes, no, k)

    program = [
        step(LOAD, 0, 0, ARCH),
        step(JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        step(RETURN, 0, 0, ERRNO | EPERM),
        step(LOAD, 0, 0, NUMBER),
        step(JUMP_FROM, 0, 1, X32_BIT),
        step(RETURN, 0, 0, ERRNO | EPERM),
    ]
    for number, error in ((IO_URING_SETUP, ENOSYS), *((number, EPERM) for number in (*KEYS[machine], *refused))):
        program += [step(JUMP_EQUAL, 0, 1, number), step(RETURN, 0, 0, ERRNO | error)]
    program += [
        step(JUMP_EQUAL, 0, 3, SOCKET[machine]),
        step(LOAD, 0, 0, FIRST),
        step(JUMP_EQUAL, 6, 0, AF_UNIX),
        step(RETURN, 0, 0, ALLOW),
        step(JUMP_EQUAL, 0, 5, SOCKETPAIR[machine]),
        step(LOAD, 0, 0, SECOND),
        step(AND, 0, 0, SOCK_TYPE),
        step(JUMP_EQUAL, 2, 0, SOCK_STREAM),
        step(JUMP_EQUAL, 1, 0, SOCK_SEQPACKET),
        step(RETURN, 0, 0, ERRNO | EACCES),
        step(RETURN, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(program))
    described = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    library = libc()
    require(library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "new privileges cannot be given up")
    require(library.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described, 0, 0), "system calls cannot be filtered")


def keep_to(folders: Iterable[Path], devices: Path) -> bool:
    """Let this process change only files in these folders, and write only to these devices, pipes of the machine included (Landlock).

    Returns False if the kernel does not offer it.
    """
    library = libc()
    version = library.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), LANDLOCK_VERSION)
    if version < 3:
        return False
    everything = LANDLOCK_WRITE_FILE | LANDLOCK_CHANGES | LANDLOCK_TRUNCATE
    attributes = struct.pack("QQQ", everything, 0, LANDLOCK_ABSTRACT_SOCKETS) if version >= 6 else struct.pack("Q", everything)
    rules = require(library.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0), "no rules can be made")
    try:
        for folder, allowed in (*((folder, everything) for folder in folders), (devices, LANDLOCK_WRITE_FILE)):
            with suppress(FileNotFoundError):
                place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
                try:
                    rule = struct.pack("=Qi", allowed, place)
                    require(library.syscall(LANDLOCK_ADD, rules, LANDLOCK_PATH_BENEATH, rule, 0), f"no rule can be made for {folder}")
                finally:
                    os.close(place)
        require(library.syscall(LANDLOCK_RESTRICT, rules, 0), "the rules cannot be set")
    finally:
        os.close(rules)
    return True
