"""How long a client may take, and how many there may be at once. uvicorn waits for the head of a request for ever.

Each of these ends a connection: a head that is not there in time, a body that is not, and an answer that the client does not take. Left
out: how long a body may be (`access.py`), and how many may follow events (`live.py`).
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 10.0
"""From the first byte of a request, or from the connection if it is the first one, to the end of its head."""
BODY_S = 20.0
TAKE_S = 30.0
"""For what waits to be sent."""
IDLE_S = 10
"""Between two requests."""
CONNECTIONS = 512
"""At once; further ones get 503."""
HEAD_BYTES = 2**14
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 33\r\n\r\ntoo many connections: try later\r\n"
)

Part = Literal["", "head", "body"]


class PatientProtocol(H11Protocol):
    """uvicorn's connection, with an end to its patience."""

    head_s: ClassVar[float] = HEAD_S
    body_s: ClassVar[float] = BODY_S
    take_s: ClassVar[float] = TAKE_S
    most: ClassVar[int] = CONNECTIONS
    _part: Part = ""
    """What of a request has begun to come and is not there yet."""
    _deadline: asyncio.TimerHandle | None = None
    _sending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrower, as in uvicorn itself
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(BUSY)
            transport.close()
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()
        if self.transport.get_write_buffer_size():
            self._hurry_taking()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._hurry_taking()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._sending):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Begin to wait for the part of a request that comes now, and end to wait for one that is there."""
        part = self._coming()
        if part == self._part:
            return
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._part = part
        if part:
            self._deadline = self.loop.call_later(self.head_s if part == "head" else self.body_s, self.transport.abort)

    def _coming(self) -> Part:
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        first, begun = self.cycle is None, bool(self.conn.trailing_data[0])
        return "head" if self.conn.their_state is h11.IDLE and (first or begun) else ""

    def _hurry_taking(self) -> None:
        """End the connection if the client has not taken by then what is to be sent now."""
        if self._sending is None:
            self._sending = self.loop.call_later(self.take_s, self._give_up_sending)

    def _give_up_sending(self) -> None:
        self._sending = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()
