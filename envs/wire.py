"""JSON documents over a socket, one a line: how a process speaks with the processes of its environments."""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, cast

MOST_BYTES = 16 * 2**20
"""Of one line: the longest text of an environment (`guarded.py:MOST_CHARACTERS`), every character of it escaped."""

SEND_S = 5.0
"""How long the other side may take to read, where it is an environment's."""

_PART = 2**16


class Wire:
    """One end of a connected pair of sockets."""

    def __init__(self, socket_: socket.socket, process: int | None = None) -> None:
        """`process` is the other side's, where its end is to be noticed even if something that it forked keeps the socket open."""
        self.socket = socket_
        self._read = bytearray()
        self._process = os.pidfd_open(process) if process is not None and sys.platform == "linux" else None
        self.socket.settimeout(None if process is None else SEND_S)

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

    def receive_with_descriptor(self) -> tuple[dict[str, Any], int | None]:
        """The next document and the file descriptor that came with it, if any."""
        found: list[int] = []

        def read() -> bytes:
            part, descriptors, _, _ = socket.recv_fds(self.socket, _PART, 1)
            found.extend(descriptors)
            return part

        return self._next(None, read), found[0] if found else None

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


def number(document: Mapping[str, Any], name: str) -> int:
    """What a document says of this name. Raises `ValueError` where that is no number that a system call takes."""
    found = document.get(name)
    if not isinstance(found, int) or not 0 <= found < 2**31:
        raise ValueError(f"{name} is {found!r:.40}")
    return found
