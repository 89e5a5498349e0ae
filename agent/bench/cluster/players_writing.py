"""How many turns a second the journal takes from many players at once, over HTTP on this machine.

The journal is its real process with a real store. The players are threads of this process that send what players send: turns with real
token ids and log-probs, each with the tokens that its prompt adds, `WIDTH` episodes at once. Their messages are packed before the clock
runs, since the work of a player is done elsewhere. Left out: sampling, environments, and the network between machines.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import perdure
from perdure.agent.bench.journal_speed import ENVIRONMENT, TURNS, sets_of_turns
from perdure.agent.cluster.cluster_settings import ClusterSection
from perdure.agent.cluster.cluster_token import cluster_token
from perdure.agent.cluster.journal.journal_client import JournalClient
from perdure.agent.cluster.journal.journal_messages import PROTOCOL, Body, endings_said, plans_said, turns_message
from perdure.memory import environments, tasks, versions
from perdure.memory.errors import RuntimeFailure
from perdure.memory.json_value import Document
from perdure.memory.records import Ending, EpisodePlan, Lease, VersionRef
from perdure.memory.store import checkpoint, create_store, open_store

PLAYERS = 16
WIDTH = 64
"""Episodes that a player plays at once, each with a turn in every message."""
START_S = 120.0
HASH = "hash-of-bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayersWriting:
    """What the journal took from this many players."""

    players: int
    width: int
    turns: int
    """Of each run."""
    seconds: list[float]
    """From the first message to the last answer, by run."""
    journal_cpu_s: list[float]
    """Processor time of the journal's process in each run."""

    @property
    def turns_per_second(self) -> float:
        """The median over the runs."""
        return statistics.median(self.turns / seconds for seconds in self.seconds)

    def as_json(self) -> Document:
        return {
            "players": self.players,
            "width": self.width,
            "turns": self.turns,
            "runs": len(self.seconds),
            "turns_per_second": self.turns_per_second,
            "journal_cores": statistics.median(cpu / wall for cpu, wall in zip(self.journal_cpu_s, self.seconds, strict=True)),
        }


def bench_players_writing(
    folder: Path, *, repeats: int, say: Callable[[str], None], players: int = PLAYERS, width: int = WIDTH
) -> PlayersWriting:
    """Measure in `folder`, which should be on the same disk as a home. Raises `RuntimeFailure` if a player's message is refused."""
    home = folder / "players-writing"
    with create_store(home) as store:
        environments.register(store, ENVIRONMENT)
        versions.add_initial(store, "bench", HASH)
    settings = ClusterSection(journal_port=_free_port(), node_timeout_s=1800)  # these players send no pings
    seconds, cpu_s = [], []
    with journal_process(home, settings, folder / "players-writing.toml") as journal:
        for run in range(repeats + 1):
            say(f"journal over HTTP: {players} players" if run else "journal over HTTP: a warm-up")
            with open_store(home) as store:
                tasks.add_tasks(store, ENVIRONMENT, list(range(players)), width, "stream")
                checkpoint(store)
            before = _cpu_s(journal.pid)
            took_s = _one_run(settings, home, players, width)
            if run:
                seconds.append(took_s)
                cpu_s.append(_cpu_s(journal.pid) - before)
    return PlayersWriting(players=players, width=width, turns=players * width * TURNS, seconds=seconds, journal_cpu_s=cpu_s)


@contextmanager
def journal_process(home: Path, settings: ClusterSection, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The journal of a home as a process that listens. Raises `RuntimeFailure` if it does not in time."""
    config.write_text(f"[cluster]\njournal_port = {settings.journal_port}\nnode_timeout_s = {settings.node_timeout_s}\n")
    program = [sys.executable, "-m", "perdure.agent.cluster.journal.journal_server", "--home", str(home), "--config", str(config)]
    process = subprocess.Popen(program, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while not _listens(settings):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeFailure(f"the journal did not begin to listen in {START_S:.0f} s")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def _one_run(settings: ClusterSection, home: Path, players: int, width: int) -> float:
    """Seconds that all players take to have all their turns written."""
    url, token = f"http://{settings.listen}:{settings.journal_port}", cluster_token(home, settings)
    clients = [JournalClient(url=url, token=token, patience_s=60.0) for _ in range(players)]
    ready = [_ready(client, width) for client in clients]
    for client in clients:
        client.close()  # the journal has closed those that were ready first, if making all messages took long
    start = threading.Barrier(players + 1)
    failed: list[str] = []

    def send(client: JournalClient, messages: list[bytes]) -> None:
        client.close()  # it may have been idle for long, and the journal has closed it
        start.wait()
        try:
            for packed in messages:
                client.exchange("turns", packed)
        except Exception as error:  # noqa: BLE001 - it is raised again in the thread that measures
            failed.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=send, args=(client, messages)) for client, (_, _, messages) in zip(clients, ready, strict=True)]
    for thread in threads:
        thread.start()
    start.wait()
    began_s = time.perf_counter()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - began_s
    for client, (lease, episodes, _) in zip(clients, ready, strict=True):
        _bring(client, lease, episodes)
        client.close()
    if failed:
        raise RuntimeFailure(f"the journal refused what it should have taken: {failed[0]}")
    return took_s


def _ready(client: JournalClient, width: int) -> tuple[Lease, list[int], list[bytes]]:
    """A player that has begun its episodes; and its turns as messages."""
    said = {"protocol": PROTOCOL, "perdure": perdure.__version__, "model": "bench", "hash": HASH, "label": "bench"}
    player = str(client.ask("hello", said).head["player"])
    [row] = client.ask("lease", {"player": player, "version": "v0", "holds": [], "most": 1}).head["tasks"]
    lease = Lease(subject=row[0], owner=player, attempt=row[4])
    plans = [
        EpisodePlan(
            environment=ENVIRONMENT,
            seed=row[2],
            group=f"task-{row[0]}",
            member=member,
            purpose="live",
            sampler=VersionRef("v0"),
            temperature=1.0,
            lease=lease,
        )
        for member in range(width)
    ]
    answer = client.ask("start", {"player": player, "plans": plans_said(plans), "hashes": {"v0": HASH}})
    episodes = [int(episode) for episode in answer.head["episodes"]]
    messages = []
    for n, turns in enumerate(sets_of_turns(width)):
        body = turns_message((episode, n, turn) for episode, turn in zip(episodes, turns, strict=True))
        messages.append(Body(head={"player": player, "again": False, **body.head}, rest=body.rest).packed())
    return lease, episodes, messages


def _bring(client: JournalClient, lease: Lease, episodes: list[int]) -> None:
    """End the episodes and the task of a player."""
    ends = [Ending(episode=one, state="completed", stop_reason="terminated", total_reward=1.0, success=True, score=1.0) for one in episodes]
    client.ask("finish", {"player": lease.owner, "endings": endings_said(ends)})
    client.ask("end-task", {"player": lease.owner, "task": lease.subject, "attempt": lease.attempt, "how": "finish", "error": ""})


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _listens(settings: ClusterSection) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((settings.listen, settings.journal_port)) == 0


def _cpu_s(pid: int) -> float:
    """Processor time of a process so far, in seconds; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
