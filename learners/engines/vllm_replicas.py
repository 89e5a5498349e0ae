"""The vLLM servers of a home, one or several replicas of it: requests to one of them, and what happens when it is lost.

With one server, who asks waits until it is back. Of several, one that is lost or hangs is left out, the others are asked, and it is asked
again as soon as its keeper (`agent/supervision/keepers.py`) has brought it back. Left out: which one to ask (`prefix_spread.py`), what is
asked, and adapters, which a server that is back has no more (`vllm_engine.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from perdure.learners.engines.vllm_client import (
    POLL_S,
    SHORT_S,
    Answer,
    Body,
    Client,
    Server,
    ServerGone,
    ServerHangs,
    ask_for_restart,
    connected,
    server_name,
)
from perdure.memory.errors import RuntimeFailure, Unavailable

TRIES = 3
"""Attempts at one request, each after a server was lost."""
LOOK_S = 1.0
"""How often a server that is left out is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What the servers were started with, and time limits."""

    max_rank: int = 16
    dtype: str = "bfloat16"
    start_s: float = 600.0
    """Time to wait for a server that is starting."""
    answer_s: float = 300.0
    """Time to wait for one batch."""
    sleeps: bool = False
    """Whether the servers can be put to sleep."""
    replicas: int = 1


@dataclass(slots=True)
class AskedServer:
    """Where something is being asked; another server takes its place when it is lost."""

    replica: int
    client: Client


class Replicas:
    """Connections to the servers of a home. Threads may share them; `note` gets a line for each failure that was recovered from.

    Raises `Unavailable` if none answers in time.
    """

    def __init__(self, home: Path, limits: ServerLimits, note: Callable[[str], None]) -> None:
        self._home = home
        self._limits = limits
        self._note = note
        self._lock = Lock()
        self._clients: dict[int, Client] = {}
        """Of the servers that are asked, by replica."""
        self._left: dict[int, Server] = {}
        """Servers that are not asked again: only others in their place."""
        self._lost_s: float | None = None
        """When the last server was lost, on the monotonic clock; all threads share one time limit."""
        self._looked_s = 0.0
        with self._lock:
            self._wait_for_any()

    @property
    def several(self) -> bool:
        return self._limits.replicas > 1

    def in_service(self) -> list[AskedServer]:
        """The servers that are asked, at least one; from time to time those that were left out are looked for."""
        with self._lock:
            if len(self._clients) < self._limits.replicas and time.monotonic() - self._looked_s > LOOK_S:
                self._look()
            if not self._clients:
                self._wait_for_any()
            return [AskedServer(replica, client) for replica, client in sorted(self._clients.items())]

    def post(self, place: AskedServer, path: str, body: Body, again: Collection[int] = ()) -> Answer:
        """Send a request, and send it again, perhaps elsewhere, if the server is lost or answers with a status in `again`.

        Sending it twice is safe: nothing of what a lost server sampled was used. Raises `Unavailable` if none answers in time.
        """
        for lost in range(TRIES):
            client = place.client
            try:
                self._wake(client)
                answer = client.post(path, body, self._limits.answer_s)
            except ServerGone as error:
                self._replace(place, str(error))
            except ServerHangs as error:
                if not self._others(place.replica):
                    raise Unavailable(
                        f"vLLM failed ({error}): it hangs, or the batch is too large: raise vllm.answer_timeout_s or lower play.width"
                    ) from error
                self._leave(place, for_good=True)
                self._replace(place, str(error))
            else:
                if answer.status not in again or lost == TRIES - 1:
                    return answer
                time.sleep(1.0 + lost)  # if its engine has died, the server ends now
                self._replace(place, f"status {answer.status}: {answer.message}")
        raise Unavailable(f"vLLM died {TRIES} times during one request: see logs/{server_name(place.replica)}.log in the home")

    def doubt(self, place: AskedServer, *, wait: bool) -> None:
        """Have a server started anew, since its cache may hold numbers that are not finite; with `wait`, go on with the new one."""
        ask_for_restart(self._home, place.client.server, place.replica)
        if not wait:
            return
        lost = place.client
        self._leave(place, for_good=True)
        deadline = time.monotonic() + self._limits.start_s
        while True:
            with self._lock:
                client = self._clients.get(place.replica) or self._joined(place.replica)
            if client is not None:
                self._told(place, client, lost, "an answer was not finite")
                return
            if time.monotonic() > deadline:
                raise self._silent(self._limits.start_s, place.replica)
            time.sleep(POLL_S)

    def each(self, path: str, body: Body, limit_s: float = SHORT_S) -> list[Answer]:
        """Ask every server in service once; none is waited for. One that is lost is passed over. Raises `ServerHangs`."""
        answers = []
        for client in list(self._clients.values()):
            with suppress(ServerGone):
                answers.append(client.post(path, body, limit_s))
        return answers

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _others(self, replica: int) -> bool:
        with self._lock:
            return any(other != replica for other in self._clients)

    def _replace(self, place: AskedServer, trouble: str) -> None:
        """Put another server in the place of one that failed: itself if it answers, else another one, else the first that is back."""
        lost = place.client
        with self._lock:
            self._lost_s = self._lost_s or time.monotonic()
            if self._clients.get(place.replica) is lost:
                del self._clients[place.replica]
                lost.close()
            if place.replica not in self._clients:
                self._joined(place.replica)
            if not self._clients:
                self._wait_for_any()
            self._lost_s = None
            found = place.replica if place.replica in self._clients else min(self._clients)
            client = self._clients[found]
        place.replica = found
        self._told(place, client, lost, trouble)

    def _told(self, place: AskedServer, client: Client, lost: Client, trouble: str) -> None:
        """Go on with this client, and say so."""
        place.client = client
        which = "the same server" if client.server == lost.server else "another one" if self.several else "a new one"
        self._note(f"vLLM failed ({trouble}); {which} was asked again")

    def _leave(self, place: AskedServer, *, for_good: bool) -> None:
        """Ask this server no more; `for_good`: only another one in its place."""
        with self._lock:
            if for_good:
                self._left[place.replica] = place.client.server
            if self._clients.get(place.replica) is place.client:
                del self._clients[place.replica]
                place.client.close()

    def _wait_for_any(self) -> None:
        """Wait for the first server that answers. Called with the lock."""
        left_s = self._limits.start_s + (self._lost_s - time.monotonic() if self._lost_s is not None else 0.0)
        deadline = time.monotonic() + left_s
        while not self._look():
            if time.monotonic() > deadline:
                raise self._silent(max(left_s, 0.0), 0)
            time.sleep(POLL_S)
        self._lost_s = None

    def _look(self) -> bool:
        """Look for servers that are not asked; whether any is asked now. Called with the lock."""
        self._looked_s = time.monotonic()
        for replica in range(self._limits.replicas):
            if replica not in self._clients:
                self._joined(replica)
        return bool(self._clients)

    def _joined(self, replica: int) -> Client | None:
        """The client of a replica that answers now, which is asked from now on. Called with the lock."""
        client = connected(self._home, replica, self._left.get(replica))
        if client is not None:
            self._clients[replica] = client
            self._left.pop(replica, None)
        return client

    def _silent(self, limit_s: float, replica: int) -> Unavailable:
        log = f"logs/{server_name(replica)}.log"
        return Unavailable(f"no vLLM server has answered for {self._home} in {limit_s:g} s: see {log} in the home")

    def _wake(self, client: Client) -> None:
        """Undo a sleep, which this or another process may have asked for."""
        if self._limits.sleeps:
            answer = client.get("/is_sleeping")
            if answer.status == 200 and answer.data["is_sleeping"]:
                woken = client.post("/wake_up", None, self._limits.answer_s)
                if woken.status != 200:
                    raise RuntimeFailure(f"vLLM cannot wake up ({woken.message}): leave it more memory, or set vllm.sleep = false")
