"""JSON documents over a socket, one a line: how a process communicates with the processes of its environments.

WireError                  the other side cannot be asked, or did not give a usable answer
+-- WireTimeout            it did not answer in time
+-- WireClosed             it has ended, or closed its socket
+-- WireDocumentError      what came is not JSON, or not the document that was expected
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

from perdure.memory.json_value import JsonObject, JsonValue, storable

MOST_BYTES = 16 * 2**20
"""Of one line: the longest text of an environment (`guarded.py:MOST_CHARACTERS`), every character of it escaped."""

SEND_S = 5.0
"""How long the process of an environment may take to read."""

_PART = 2**16


class WireError(Exception):
    """The other side cannot be asked, or did not give a usable answer."""


class WireTimeout(WireError, TimeoutError):
    """The other side did not answer in time."""


class WireClosed(WireError, EOFError):
    """The other side has ended, or closed its socket."""


class WireDocumentError(WireError, ValueError):
    """What came is not JSON, or not the document that was expected."""


class Wire:
    """One end of a connected pair of sockets."""

    def __init__(self, socket_: socket.socket, *, process: int | None = None, send_s: float | None = None) -> None:
        """`process` is a descriptor of the other side's process (`process_descriptor`): its end is noticed even if a process that it
        forked keeps the socket open. `send_s` is how long the other side may take to read."""
        self.socket = socket_
        self._read = bytearray()
        self._process = process
        self.socket.settimeout(send_s)

    def send(self, message: JsonObject, descriptor: int | None = None) -> None:
        """Write one document, with a file descriptor for the other side if there is one. Raises `WireClosed` if the other side is closed
        or does not read."""
        line = json.dumps(message).encode() + b"\n"
        try:
            if descriptor is None:
                self.socket.sendall(line)
            else:
                socket.send_fds(self.socket, [line], [descriptor])
        except OSError as error:
            raise WireClosed("its process does not read any more") from error

    def receive(self, timeout_s: float | None = None) -> JsonObject:
        """The next document. Raises `WireTimeout`, `WireClosed` and `WireDocumentError`."""
        return self._next(timeout_s, lambda: self.socket.recv(_PART))

    def receive_with_descriptor(self, timeout_s: float | None = None) -> tuple[JsonObject, int | None]:
        """The same with the file descriptor that came with it, if any."""
        received: list[int] = []

        def read() -> bytes:
            part, descriptors, _, _ = socket.recv_fds(self.socket, _PART, 1)
            received.extend(descriptors)
            return part

        return self._next(timeout_s, read), received[0] if received else None

    @property
    def process(self) -> int | None:
        """The number of the other side's process in this process's namespace; None if it is not known or has ended."""
        if self._process is None:
            return None
        with suppress(OSError):
            stated = re.search(r"^Pid:\s*(\d+)", Path(f"/proc/self/fdinfo/{self._process}").read_text(), re.MULTILINE)
            return int(stated[1]) if stated else None
        return None

    def has_news(self) -> bool:
        """Whether something can be read without waiting. Raises `WireClosed` if this end is closed."""
        return bool(self._read) or bool(self._ready(0.0))

    def close(self) -> None:
        self.socket.close()
        if self._process is not None:
            os.close(self._process)
            self._process = None

    def _wait(self, until_s: float | None) -> None:
        """Wait until something can be read. Raises `WireTimeout`, and `WireClosed` if the process has ended and left nothing to read."""
        ready = self._ready(None if until_s is None else max(until_s - time.monotonic(), 0.0))
        if not ready:
            raise WireTimeout("its process did not answer in time")
        if self.socket.fileno() not in ready and self.socket.fileno() not in self._ready(0.0):
            raise WireClosed("its process died")

    def _ready(self, timeout_s: float | None) -> list[int]:
        """Which of the socket and the process have news. Raises `WireClosed` if this end is closed."""
        if self.socket.fileno() < 0:
            raise WireClosed("the connection to its process is closed")
        poll = select.poll()  # `select` does not take descriptors from 1024 on
        for descriptor in (self.socket.fileno(), *([self._process] if self._process is not None else [])):
            poll.register(descriptor, select.POLLIN)
        return [descriptor for descriptor, _ in poll.poll(None if timeout_s is None else 1000.0 * timeout_s)]

    def _next(self, timeout_s: float | None, read: Callable[[], bytes]) -> JsonObject:
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        searched = 0
        while (end := self._read.find(b"\n", searched)) < 0:
            searched = len(self._read)
            if searched > MOST_BYTES:
                raise WireDocumentError(f"its process wrote a line of more than {MOST_BYTES} bytes")
            self._wait(until_s)
            try:
                part = read()
            except OSError as error:
                raise WireClosed("its process died") from error
            if not part:
                raise WireClosed("its process died")
            self._read += part
        line = bytes(self._read[:end])
        del self._read[: end + 1]
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise WireDocumentError(f"its process wrote a line that is not JSON: {line[:40]!r}") from error
        if not isinstance(document, dict):
            raise WireDocumentError(f"its process wrote {line[:40]!r}, not a JSON object")
        return cast("JsonObject", _storable(document) if b"\\u" in line or b"\xed" in line else document)


def _storable(value: JsonValue) -> JsonValue:
    """The value with texts that can be stored."""
    match value:
        case str():
            return storable(value)
        case list():
            return [_storable(item) for item in value]
        case dict():
            return {storable(key): _storable(item) for key, item in value.items()}
    return value


def process_descriptor(pid: int) -> int | None:
    """A descriptor of a process, with which its end can be waited for; None on systems without. Raises `OSError`."""
    return os.pidfd_open(pid) if sys.platform == "linux" else None


# --- fields of a document; each raises `WireDocumentError` if it is missing or of another type ---


def field(document: JsonObject, name: str) -> JsonValue:
    if name not in document:
        raise WireDocumentError(f"{name} is missing")
    return document[name]


def text_field(document: JsonObject, name: str) -> str:
    value = field(document, name)
    if not isinstance(value, str):
        raise WireDocumentError(f"{name} is {value!r:.40}, not text")
    return value


def count_field(document: JsonObject, name: str) -> int:
    """A whole number that every system call takes."""
    value = field(document, name)
    if not isinstance(value, int) or not 0 <= value <= 2**31:
        raise WireDocumentError(f"{name} is {value!r:.40}, not a whole number from 0")
    return value


def float_field(document: JsonObject, name: str) -> float:
    value = field(document, name)
    if not isinstance(value, int | float):
        raise WireDocumentError(f"{name} is {value!r:.40}, not a number")
    return value


def list_field(document: JsonObject, name: str) -> list[JsonValue]:
    value = field(document, name)
    if not isinstance(value, list):
        raise WireDocumentError(f"{name} is {value!r:.40}, not a list")
    return value
