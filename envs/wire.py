"""JSON documents over a socket, one a line: how a process speaks with the processes of its environments."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any, cast

MOST_BYTES = 16 * 2**20
"""Of one line: the longest text of an environment (`guarded.py:MOST_CHARACTERS`), every character of it escaped."""

_PART = 2**16


class Wire:
    """One end of a connected pair of sockets."""

    def __init__(self, socket_: socket.socket) -> None:
        self.socket = socket_
        self._read = bytearray()

    def send(self, message: Mapping[str, Any], descriptor: int | None = None) -> None:
        """Write one document, with a file descriptor for the other side where one is given. Raises `OSError` where nobody listens."""
        line = json.dumps(message).encode() + b"\n"
        self.socket.settimeout(None)
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
        self.socket.settimeout(0.0)
        try:
            return bool(self._read) or bool(self.socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self.socket.close()

    def _next(self, timeout_s: float | None, read: Any) -> dict[str, Any]:
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        searched = 0
        while (end := self._read.find(b"\n", searched)) < 0:
            searched = len(self._read)
            if searched > MOST_BYTES:
                raise ValueError(f"a line of more than {MOST_BYTES} bytes")
            if until_s is not None and until_s <= time.monotonic():
                raise TimeoutError
            self.socket.settimeout(None if until_s is None else max(until_s - time.monotonic(), 0.001))
            part = read()
            if not part:
                raise EOFError
            self._read += part
        line = bytes(self._read[:end])
        del self._read[: end + 1]
        document = json.loads(line)
        if not isinstance(document, dict):
            raise ValueError(f"{line[:40]!r} is no JSON object")
        return cast("dict[str, Any]", document)
