"""A home with a journal and players, as real processes on this machine, for measurements. No actor, no daemon, and no Ray.

Left out: what is measured (`players.py`, `journal_load.py`).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import perdure
from perdure.agent.bench.cluster.waiting_game import NAME
from perdure.agent.bench.cluster.waiting_player import MODEL, MODEL_HASH
from perdure.agent.cluster.journal.journal_client import JournalClient
from perdure.agent.cluster.journal.journal_messages import PROTOCOL
from perdure.agent.cluster.player_orders import player_order
from perdure.agent.config_file import load_config
from perdure.memory.environments import register
from perdure.memory.errors import RuntimeFailure
from perdure.memory.store import create_store, open_store
from perdure.memory.tasks import add_tasks
from perdure.memory.versions import add_candidate, add_initial, reserve_name

PATIENCE_S = 120.0
POLL_S = 0.05
JOURNAL = "perdure.agent.cluster.journal.journal_server"
PLAYER = "perdure.agent.bench.cluster.waiting_player"
WIDTH, MEMBERS = 4, 4
VERSION_FILE, VERSION_BYTES = "adapter.safetensors", 20_000_000
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class BenchHead:
    """A home, its journal and its players."""

    path: Path
    port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.path / "home"

    @property
    def config(self) -> Path:
        return self.path / "perdure.toml"

    def queue(self, tasks: int, environment: str = NAME, members: int = MEMBERS) -> None:
        """Queue live tasks."""
        with open_store(self.home) as store:
            add_tasks(store, environment, range(3, 3 + tasks), members, "stream")

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        with open_store(self.home) as store:
            return [tuple(row) for row in store.rows(sql, tuple(values))]

    def turns(self) -> int:
        """Turns in the database so far."""
        return int(str(self.rows("SELECT coalesce(max(rowid), 0) FROM turn")[0][0]))

    def hello(self, client: JournalClient) -> str:
        """Let a player in that is no process; gives its name."""
        said = {"protocol": PROTOCOL, "perdure": perdure.__version__, "model": MODEL, "hash": MODEL_HASH, "label": "bench"}
        return str(client.ask("hello", said).head["player"])

    def publish_version(self, size_bytes: int = VERSION_BYTES) -> str:
        """Make a version of one file of this size, with nothing in it; gives its hash."""
        with open_store(self.home) as store:
            name = reserve_name(store)
            (self.home / "versions" / name / VERSION_FILE).write_bytes(bytes(size_bytes))
            add_candidate(store, None, name, "v0", "hash-of-it", f"versions/{name}", (), None)
        return "hash-of-it"

    def start_players(self, count: int) -> list[str]:
        """Start players, and wait until each of them holds a task or has said hello. Gives the names of their processes."""
        loaded = load_config(self.config)
        names = [f"player-{len(self.processes) + n}" for n in range(count)]
        for name in names:
            order = self.path / f"{name}.order"
            order.write_bytes(player_order(self.home, loaded, name))
            self.start(name, [PLAYER, str(order)])
        self.wait("the players", lambda: all(f"is player:{name}-" in self.log(name) for name in names))
        return names

    def start(self, name: str, arguments: Sequence[str]) -> None:
        with (self.path / f"{name}.log").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def stop(self, names: Sequence[str]) -> None:
        """Ask them to end, and wait."""
        for name in names:
            self.processes[name].terminate()
        for name in names:
            self.processes.pop(name).wait(timeout=PATIENCE_S)

    def kill(self, name: str) -> None:
        """End a process and all that it started at once, as when its node loses power."""
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes.pop(name).wait(timeout=PATIENCE_S)

    def freeze(self, name: str, frozen: bool) -> None:
        """Stop a process and all that it started, or let them go on."""
        os.killpg(self.processes[name].pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    def log(self, name: str) -> str:
        return (self.path / f"{name}.log").read_text()

    def wait(self, what: str, condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
        """Raises `RuntimeFailure` if it does not come, or if a process has ended by itself."""
        deadline = time.monotonic() + patience_s
        while not condition():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise RuntimeFailure(f"{name} ended while {what} was waited for: {self.log(name)[-500:]}")
            if time.monotonic() > deadline:
                raise RuntimeFailure(f"{what} did not come in {patience_s:.0f} s")
            time.sleep(POLL_S)

    def cpu_s(self, name: str) -> float:
        """Seconds of processor time that a process has taken so far, all threads together."""
        return process_cpu_s(self.processes[name].pid)

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=PATIENCE_S)


def process_cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has taken so far, without its children. Raises `OSError` if it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


@contextmanager
def bench_head(path: Path, silence_s: int = 10) -> Iterator[BenchHead]:
    """A home with its journal in an empty folder, while the block lasts."""
    path.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    (path / "perdure.toml").write_text(
        f"model = '{MODEL}'\nplay.width = {WIDTH}\nplay.members = {MEMBERS}\nstream.environments = ['{NAME}']\n"
        f"sandbox.trusted = ['perdure:', '{NAME}']\n[cluster]\njournal_port = {port}\nnode_timeout_s = {silence_s}\n"
    )
    with create_store(path / "home") as store:
        register(store, NAME)
        add_initial(store, MODEL, MODEL_HASH)
    head = BenchHead(path=path, port=port)
    try:
        head.start("journal", [JOURNAL, "--home", str(head.home), "--config", str(head.config)])
        head.wait("the journal", lambda: _listens(port))
        yield head
    finally:
        head.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
