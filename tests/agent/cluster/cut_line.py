"""A line between players and a journal that a test can cut: nothing gets through, and nobody is told, until it is mended."""

from __future__ import annotations

import selectors
import socket
import threading
from types import TracebackType


class CutLine:
    """Passes bytes on between a port of its own and another one of this machine."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._whole = threading.Event()
        self._whole.set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def cut(self) -> None:
        """From now on what is sent is lost, with the connections that there are."""
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def __enter__(self) -> CutLine:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        ends: dict[socket.socket, socket.socket] = {}
        lost: set[socket.socket] = set()
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._ended.is_set():
                for key, _ in selector.select(timeout=0.05):
                    found = key.fileobj
                    assert isinstance(found, socket.socket)
                    if found is self._listener:
                        near, _ = found.accept()
                        far = socket.create_connection(("127.0.0.1", self._to)) if self._whole.is_set() else None
                        if far is None:  # a silence, not a refusal
                            lost.add(near)
                            continue
                        for one, other in ((near, far), (far, near)):
                            ends[one] = other
                            selector.register(one, selectors.EVENT_READ)
                        continue
                    data = _received(found)
                    if not self._whole.is_set():
                        lost.add(found)
                    if data and found not in lost and ends[found] not in lost:
                        ends[found].sendall(data)
                    elif not data:
                        for one in (found, ends[found]):
                            if one in selector.get_map():
                                selector.unregister(one)
                            one.close()
        for one in [*ends, *lost]:
            one.close()


def _received(found: socket.socket) -> bytes:
    try:
        return found.recv(2**16)
    except OSError:
        return b""
