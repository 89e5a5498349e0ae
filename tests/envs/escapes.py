"""An environment that tries to reach out of its folder: the action names a way and a place. It never does harm there: what it writes is
one letter into a file of the test, and devices and settings of the kernel are only opened."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.envs.faulty import Counting, Stepped

FOLDERS: dict[str, int] = {}
"""Descriptors of folders that were opened at import."""

if "ESCAPES" in os.environ:
    FOLDERS["import"] = os.open(os.environ["ESCAPES"], os.O_RDONLY)


def clear_read_only(place: str) -> None:
    attributes = struct.pack("4Q", 0, 1, 0, 0)
    ctypes.CDLL(None).syscall(442, -100, b"/", 0x8000, attributes, ctypes.c_size_t(len(attributes)))
    Path(place).write_text("x")


def remount(place: str) -> None:
    ctypes.CDLL(None).mount(None, b"/", None, ctypes.c_ulong(0x20 | 0x1000), None)
    Path(place).write_text("x")


def namespaces_again(place: str) -> None:
    """Below, it has all capabilities, but the mounts are locked there."""
    library = ctypes.CDLL(None)
    library.unshare(0x10000000 | 0x20000)
    clear_read_only(place)


def from_import(place: str) -> None:
    os.close(os.open(Path(place).name, os.O_WRONLY | os.O_CREAT, dir_fd=FOLDERS["import"]))


def connect(kind: int) -> Callable[[str], None]:
    def run(place: str) -> None:
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.connect(place)

    return run


def datagram_of_a_pair(place: str) -> None:
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.sendto(b"x", place)


def pipe(place: str) -> None:
    os.write(os.open(place, os.O_WRONLY | os.O_NONBLOCK), b"x")


def opened(mode: int) -> Callable[[str], None]:
    """Only opened: nothing is written or read."""
    return lambda place: os.close(os.open(place, mode | os.O_NONBLOCK))


WAYS: dict[str, Callable[[str], Any]] = {
    "plain": lambda place: Path(place).write_text("x"),
    "first-process": lambda place: Path(f"/proc/1/root{place}").write_text("x"),
    "parent": lambda place: Path(f"/proc/{os.getppid()}/root{place}").write_text("x"),
    "own-root": lambda place: Path(f"/proc/self/root{place}").write_text("x"),
    "remove": os.remove,
    "rename": lambda place: os.rename(place, f"{place}-moved"),
    "mode": lambda place: os.chmod(place, 0o777),
    "program": lambda place: subprocess.run(["/bin/sh", "-c", f"echo x > {place}"], check=True),
    "clear-read-only": clear_read_only,
    "remount": remount,
    "namespaces-again": namespaces_again,
    "from-import": from_import,
    "stream": connect(socket.SOCK_STREAM),
    "datagram": connect(socket.SOCK_DGRAM),
    "datagram-of-a-pair": datagram_of_a_pair,
    "pipe": pipe,
    "opened": opened(os.O_WRONLY),
    "read": opened(os.O_RDONLY),
}


class Escapes(Counting):
    def step(self, action: str) -> Stepped:
        way, _, place = action.partition(" ")
        WAYS[way](place)
        return "", 1.0, True, False, {}
