"""JSON documents over a socket, one a line: how a process speaks with the processes of its environments."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

MOST_BYTES = 16 * 2**20
"""Of one line: the longest text of an environment (`guarded.py:MOST_CHARACTERS`), every character of it escaped."""

SEND_S = 5.0
"""How long the other side may take to read, where it is an environment's."""

_PART = 2**16


class Wire:
    """One end of a connected pair of sockets."""

    def __init__(self, socket_: socket.socket, *, process: int | None = None, send_s: float | None = None) -> None:
        """`process` is a descriptor of the other side's (`watched`), whose end is noticed even if what it forked keeps the socket open.

        `send_s` is how long the other side may take to read.
        """
        self.socket = socket_
        self._read = bytearray()
        self._process = process
        self.socket.settimeout(send_s)

    def send(self, message: Mapping[str, Any], descriptor: int | None = None) -> None:
        """Write one document, with a file descriptor for the other side where one is given. Raises `OSError` where nobody listens."""
        line = json.dumps(message).encode() + b"\n"
        if descriptor is None:
            self.socket.sendall(line)
        else:
            socket.send_fds(self.socket, [line], [descriptor])

    def receive(self, timeout_s: float | None = None) -> dict[str, Any]:
        """The next document. Raises `TimeoutError`, `EOFError` where the other side has ended, `ValueError` for what is no document."""
        return self._next(timeout_s, lambda: self.socket.recv(_PART))

    def receive_with_descriptor(self, timeout_s: float | None = None) -> tuple[dict[str, Any], int | None]:
        """The same with the file descriptor that came with it, if any."""
        found: list[int] = []

        def read() -> bytes:
            part, descriptors, _, _ = socket.recv_fds(self.socket, _PART, 1)
            found.extend(descriptors)
            return part

        return self._next(timeout_s, read), found[0] if found else None

    @property
    def process(self) -> int | None:
        """The number of the process that is watched, as this one counts; None where there is none any more."""
        if self._process is None:
            return None
        with suppress(OSError):
            stated = re.search(r"^Pid:\s*(\d+)", Path(f"/proc/self/fdinfo/{self._process}").read_text(), re.MULTILINE)
            return int(stated[1]) if stated else None
        return None

    def has_news(self) -> bool:
        """Whether something can be read without waiting."""
        return bool(self._read) or bool(self._ready(0.0))

    def close(self) -> None:
        self.socket.close()
        if self._process is not None:
            os.close(self._process)
            self._process = None

    def _wait(self, until_s: float | None) -> None:
        """Until something can be read. Raises `TimeoutError`, and `EOFError` where the process has ended without a word."""
        ready = self._ready(None if until_s is None else max(until_s - time.monotonic(), 0.0))
        if not ready:
            raise TimeoutError
        if self.socket.fileno() not in ready and self.socket.fileno() not in self._ready(0.0):
            raise EOFError

    def _ready(self, timeout_s: float | None) -> list[int]:
        """Which of the socket and the process have something to tell. Raises `EOFError` where this end is closed."""
        if self.socket.fileno() < 0:
            raise EOFError
        watched = select.poll()  # `select` takes no descriptor from 1024 on
        for descriptor in (self.socket.fileno(), *([self._process] if self._process is not None else [])):
            watched.register(descriptor, select.POLLIN)
        return [descriptor for descriptor, _ in watched.poll(None if timeout_s is None else 1000.0 * timeout_s)]

    def _next(self, timeout_s: float | None, read: Any) -> dict[str, Any]:
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        searched = 0
        while (end := self._read.find(b"\n", searched)) < 0:
            searched = len(self._read)
            if searched > MOST_BYTES:
                raise ValueError(f"a line of more than {MOST_BYTES} bytes")
            self._wait(until_s)
            part = read()
            if not part:
                raise EOFError
            self._read += part
        line = bytes(self._read[:end])
        del self._read[: end + 1]
        try:
            document = json.loads(line)
        except RecursionError as error:
            raise ValueError("lists in lists without end") from error
        if not isinstance(document, dict):
            raise ValueError(f"{line[:40]!r} is no JSON object")
        return cast("dict[str, Any]", document)


def watched(pid: int) -> int | None:
    """A descriptor of a process, by which its end can be waited for; None where the system has no such thing. Raises `OSError`."""
    return os.pidfd_open(pid) if sys.platform == "linux" else None


def number(document: Mapping[str, Any], name: str) -> int:
    """What a document says of this name. Raises `ValueError` where that is no number that a system call takes."""
    found = document.get(name)
    if not isinstance(found, int) or not 0 <= found < 2**31:
        raise ValueError(f"{name} is {found!r:.40}")
    return found
