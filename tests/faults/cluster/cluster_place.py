"""A home whose daemon has a cluster on this machine: its players, nodes and head are found through /proc, so that they can be killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar
from uuid import uuid4

from tests.agent.web.servers import free_port
from tests.faults.cluster.witness import VARIABLE
from tests.faults.games import CHAIN, RIGGED
from tests.faults.invariants import Findings
from tests.faults.place import Place, lives

from perdure.envs.rollout import nothing
from perdure.memory.contracts.orders import ProbeOrder
from perdure.memory.jobs import add_job
from perdure.memory.leases import BootClock
from perdure.memory.store import open_store
from perdure.memory.upkeep.integrity import check

T = TypeVar("T")
PATIENCE_S = 300.0
"""Ray takes long to start on a machine that is busy."""
STOP_S = 40.0
AS_URGENT = {"RAY_worker_niceness": "0"}
"""On one machine Ray's workers, and players below them, would wait for all others: it runs them at nice 15."""
PIECES = b"tests.faults.cluster.piece_program"

SETTINGS = """
enabled = false
[cluster]
address = "{address}"
players = {players}
player_cpus = 0.25
learners = {learners}
learner_cpus = 0.25
journal_port = {port}
start_timeout_s = 240
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A task or an errand that a player held when it died."""

    kind: Literal["task", "errand"]
    id: int
    attempt: int


class ClusterPlace(Place):
    """A place whose daemon has a cluster."""

    def __init__(self, path: Path, model: Path | str, address: str = "local", players: int = 2, learners: int = 2) -> None:
        more = SETTINGS.format(address=address, players=players, learners=learners, port=free_port())
        super().__init__(
            path,
            model,
            actor="tests.faults.cluster.actor",
            more=more,
            daemon="tests.faults.cluster.daemon",
            stop_s=STOP_S,
            patience_s=PATIENCE_S,
            trusted=(CHAIN, RIGGED),
        )
        self.wanted = players
        self._own_cluster = address == "local"

    def start(self, **environment: str) -> float:
        return super().start(**{VARIABLE: str(self.path), **AS_URGENT, **environment})

    def examine(self, *, at_rest: bool = False) -> Findings:
        """Also what `perdure store check` says."""
        found = super().examine(at_rest=at_rest)
        with open_store(self.home) as store:
            told = [f"{one.rule}: {one.subject}: {one.message}" for one in check(store, BootClock()) if one.level == "error"]
        return replace(found, broken=(*found.broken, *told))

    def leftovers(self) -> list[int]:
        """Without a daemon, also processes of its cluster; of one that is not its own, only what was placed there."""
        if self.daemon is not None:
            return super().leftovers()
        placed = self.processes() if self._own_cluster else self.processes(PIECES)
        return [*super().leftovers(), *(pid for pid in placed if pid != os.getpid())]

    def processes(self, *words: bytes) -> list[int]:
        """Processes of this place, wherever they hang, in whose command line these words are: each as a whole or at an end of one."""
        mark = f"{VARIABLE}={self.path}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                pid = int(entry.name)
                line = (entry / "cmdline").read_bytes().split(b"\0")
                if all(any(one.endswith(word) for one in line) for word in words) and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(pid)
        return [pid for pid in found if lives(pid)]

    def players(self) -> list[int]:
        return self.processes(PIECES, b"player")

    def ranks(self) -> list[int]:
        return self.processes(PIECES, b"rank")

    def raylet(self, host: str) -> int | None:
        return next(iter(self.processes(b"/raylet", f"--node_ip_address={host}".encode())), None)

    def head(self) -> int | None:
        return next(iter(self.processes(b"gcs_server")), None)

    def held_by(self, players: Collection[int], kind: Literal["task", "errand"] = "task") -> list[Held]:
        """What these processes hold. Their number is in the name under which they play."""
        with open_store(self.home) as store:
            rows = store.rows(f"SELECT id, attempt, owner FROM {kind} WHERE state = 'leased' AND owner LIKE 'player:%'")
        return [Held(kind=kind, id=row["id"], attempt=row["attempt"]) for row in rows if _pid_of(row["owner"]) in players]

    def at_work(self, kind: Literal["task", "errand"] = "task") -> list[int]:
        """Players that hold something of this kind."""
        return [pid for pid in self.players() if self.held_by([pid], kind)]

    def goes_on_elsewhere(self, held: Sequence[Held], moment: float) -> float | None:
        """Seconds until all of this has been begun by others, or needs it no more. None if nothing was held."""
        if not held:
            return None
        self.wait("the work of the dead to go on elsewhere", lambda: all(self._goes_on(one) for one in held), every_s=0.25)
        return time.monotonic() - moment

    def _goes_on(self, held: Held) -> bool:
        if held.kind == "errand":
            sql = f"SELECT state IN ('done', 'abandoned') OR attempt > {held.attempt} FROM errand WHERE id = {held.id}"
        else:
            sql = f"""SELECT state IN ('done', 'failed')
                      OR EXISTS (SELECT 1 FROM episode e WHERE e.task = t.id AND e.attempt > {held.attempt})
                      FROM task t WHERE id = {held.id}"""
        return bool(self.ask(sql))

    def all_play(self, moment: float, meanwhile: Callable[[], None] = nothing) -> float:
        """Seconds until as many players as are wanted live and have each had a turn acknowledged since."""

        def play() -> bool:
            meanwhile()
            self.acknowledged.read()
            since = {pid for pid, at in self.acknowledged.times if at > moment}
            players = self.players()
            return len(players) == self.wanted and since.issuperset(players)

        self.wait("all players to play", play, every_s=0.5)
        return time.monotonic() - moment

    def queue_probe(self) -> int:
        """A job whose held-out tasks players play."""
        with open_store(self.home) as store:
            return add_job(store, uuid4().hex, [CHAIN], ProbeOrder(version="v0", episodes=300))

    def cluster_says(self) -> str:
        """What the cluster process says of itself."""
        return str(self.ask("SELECT coalesce((SELECT detail FROM process WHERE name = 'cluster'), '')"))


def kill(*pids: int) -> float:
    """kill -9; gives the moment."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return time.monotonic()


def found(place: Place, what: str, look: Callable[[], T | None]) -> T:
    """Wait until something is there."""
    seen: list[T] = []

    def there() -> bool:
        one = look()
        if one:
            seen.append(one)
        return bool(seen)

    place.wait(what, there, every_s=0.05)
    return seen[0]


def _pid_of(owner: str) -> int:
    """`player:player-1-HOST-PID-RANDOM`."""
    return int(owner.rsplit("-", 2)[1])
