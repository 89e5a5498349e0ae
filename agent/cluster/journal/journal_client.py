"""How a player asks the journal: one message after the other, each repeated until it is answered or patience ends.

Every wait has a limit. A message that is repeated says so, because its first answer may have been lost after it was written
(`ledger.py`). No proxy of the environment is asked: the token goes to the journal and nowhere else.
"""

from __future__ import annotations

import http.client
import random
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from perdure.agent.cluster.journal.journal_messages import MOST_BYTES, Body, read_message
from perdure.agent.cluster.journal.known_players import PlayerFenced, PlayerGone
from perdure.memory import faults
from perdure.memory.errors import InputError, LeaseLost, PerdureError, RuntimeFailure, Unavailable
from perdure.memory.json_value import Document

CONNECT_S = 3.0
ANSWER_S = 10.0
"""How long the answer to one try may take."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 1.0
"""Between two tries; each wait is twice the one before."""

ERRORS: dict[str, type[PerdureError]] = {
    "gone": PlayerGone,
    "fenced": PlayerFenced,
    "lease lost": LeaseLost,
    "unavailable": Unavailable,
    "input": InputError,
    "token": InputError,
    "failed": RuntimeFailure,
}


@dataclass(slots=True, kw_only=True)
class JournalClient:
    """One connection to the journal, for one thread."""

    url: str
    token: str = field(repr=False)
    patience_s: float
    """How long a message is tried again before the journal counts as unreachable."""
    answer_s: float = ANSWER_S
    _connection: http.client.HTTPConnection | None = None

    def ask(self, path: str, head: Document, rest: bytes = b"") -> Body:
        """Ask until there is an answer. Raises the error that the journal answers with, and `PlayerGone` if patience ends."""
        began_s = time.monotonic()
        wait_s = FIRST_WAIT_S
        again = False
        while True:
            try:
                return self.exchange(path, Body(head={**head, "again": again}, rest=rest).packed())
            except (OSError, http.client.HTTPException, Unavailable) as error:
                if isinstance(error, PlayerGone):
                    raise
                self.close()
                if time.monotonic() - began_s + wait_s > self.patience_s:
                    reason = " ".join(str(error).split()) or type(error).__name__
                    raise PlayerGone(f"the journal at {self.url} does not answer: {reason}") from error
            time.sleep(wait_s * random.uniform(0.5, 1.0))  # so that many players do not come back at once
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            again = True

    def close(self) -> None:
        """Close the connection; the next message opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def exchange(self, path: str, packed: bytes) -> Body:
        """Send a message once and take its answer. Raises `OSError` and `HTTPException` too."""
        if self._connection is None:
            self._connection = _connected(self.url)
        self._connection.sock.settimeout(self.answer_s)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/octet-stream"}
        self._connection.request("POST", f"/{path}", packed, headers)
        response = self._connection.getresponse()
        given = response.read(MOST_BYTES + 1)
        if response.length and len(given) <= MOST_BYTES:  # the journal died while it answered
            raise http.client.IncompleteRead(given, response.length)
        if response.will_close or not response.isclosed():
            self.close()
        if response.getheader("content-type") != "application/octet-stream":
            raise InputError(f"what answers at {self.url} is no journal of Perdure: another program has the port")
        answer = read_message(given)
        if response.status == http.client.OK:
            faults.point("after-answer")
            return answer
        raise ERRORS.get(str(answer.head.get("error")), RuntimeFailure)(str(answer.head.get("message")))


def _connected(url: str) -> http.client.HTTPConnection:
    """A connection to the journal. Raises `InputError` for an address that is none, and `OSError` if nobody answers."""
    parts = urlsplit(url)
    try:
        if parts.scheme != "http" or parts.hostname is None or parts.port is None:
            raise ValueError("it is not http://HOST:PORT")
    except ValueError as error:
        raise InputError(f"{url!r} is no address of a journal: {error}") from error
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=CONNECT_S)
    connection.connect()
    connection.auto_open = 0  # a connection that broke is an error: what was sent may be sent again
    return connection
