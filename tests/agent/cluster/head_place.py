"""A head in a folder: a home with its journal as a real process, and players as real processes, which tests may kill."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.agent.cluster.scripted_player import BASE_HASH
from tests.faults.place import child_environment

from perdure.agent.cluster.journal.journal_client import JournalClient
from perdure.agent.cluster.journal.journal_server import serve_journal
from perdure.agent.cluster.player_orders import player_order
from perdure.agent.cluster.playing.player_order import read_order
from perdure.agent.cluster.playing.remote_player import PlayerParts, play_for
from perdure.agent.config import Config
from perdure.agent.config_file import load_config
from perdure.memory.environments import register
from perdure.memory.records import TaskState
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.tasks import add_tasks
from perdure.memory.versions import add_initial

PATIENCE_S = 120.0
WALK = "py:tests.agent.coin:Walk"
ADD = "perdure:add"
JOURNAL = "perdure.agent.cluster.journal.journal_server"


@dataclass
class Head:
    """A home, its journal and its players. The journal listens on a port of its own."""

    path: Path
    port: int
    silence_s: int = 10
    width: int = 8
    journal: subprocess.Popen[bytes] | None = None
    players: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.path / "home"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return (self.home / "run" / "cluster-token").read_text().strip()

    @property
    def settings_file(self) -> Path:
        return self.path / "perdure.toml"

    def write_settings(self, silence_s: int) -> None:
        self.settings_file.write_text(f"model = 'tiny'\n[cluster]\njournal_port = {self.port}\nnode_timeout_s = {silence_s}\n")

    def start_journal(self, fault: str = "") -> subprocess.Popen[bytes]:
        """Start the journal and wait until it listens."""
        self.write_settings(self.silence_s)
        given = ["--home", str(self.home), "--config", str(self.settings_file)]
        self.journal = self._process([JOURNAL, *given], "journal", fault)
        self.wait("the journal", self.listens)
        return self.journal

    def start_player(
        self,
        program: str = "tests.agent.cluster.scripted_player",
        config: Config | None = None,
        fault: str = "",
        port: int = 0,
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a player with an order for this head, which it may find at another port."""
        number = len(self.players)
        chosen = config or Config.model_validate(
            {"model": "tiny", "play": {"width": self.width, "members": 4}, "sandbox": {"trusted": ["perdure:", "py:tests.agent.coin:Walk"]}}
        )
        file = self.path / f"order-{number}"
        file.write_bytes(self.order(f"p{number}", chosen, port))
        self.players.append(self._process([program, str(file)], f"player-{number}", fault, variables))
        return self.players[-1]

    def order(self, name: str, settings: Config, port: int = 0) -> bytes:
        """The order that the cluster's process would write."""
        loaded = load_config(self.settings_file)
        cluster = loaded.config.cluster.model_copy(update={"journal_port": port or self.port})
        settings = settings.model_copy(update={"cluster": cluster})
        return player_order(self.home, loaded.with_config(settings), name)

    def client(self, patience_s: float = 5.0) -> JournalClient:
        return JournalClient(url=self.url, token=self.token, patience_s=patience_s)

    def log(self, name: str) -> str:
        return (self.path / f"{name}.log").read_text()

    def ask(self, sql: str) -> int:
        with open_store(self.home) as store:
            return int(store.rows(sql)[0][0])

    def tasks(self, state: TaskState) -> int:
        return self.ask(f"SELECT count(*) FROM task WHERE state = '{state}'")

    def wait(self, what: str, condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.05)
        logs = "\n".join(f"{file.name}:\n{file.read_text()[-2000:]}" for file in sorted(self.path.glob("*.log")))
        pytest.fail(f"waited {patience_s:.0f} s for {what}\n{logs}")

    def close(self) -> None:
        for process in [*self.players, *([self.journal] if self.journal else [])]:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(timeout=30)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _process(self, arguments: list[str], log: str, fault: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        environment = child_environment(PERDURE_FAULT=fault, **(variables or {}))
        with (self.path / f"{log}.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=self.path, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )


@contextmanager
def head_in(path: Path, base_hash: str = BASE_HASH) -> Iterator[Head]:
    """A home that knows two environments and the base model of this hash, without any process yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with create_store(path / "home") as store:
        for name in (WALK, ADD):
            register(store, name)
        add_initial(store, "tiny", base_hash)
    head = Head(path=path, port=port)
    try:
        yield head
    finally:
        head.close()


@contextmanager
def journal_here(head: Head, silence_s: int = 60) -> Iterator[None]:
    """The journal in this process."""
    stopped = threading.Event()
    head.write_settings(silence_s)
    journal = threading.Thread(target=serve_journal, args=(head.home, load_config(head.settings_file).config.cluster, stopped.is_set))
    journal.start()
    try:
        head.wait("the journal", head.listens)
        yield
    finally:
        stopped.set()
        journal.join(timeout=60)


@dataclass
class PlayerHere:
    """A player in a thread of this process."""

    said: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    failed: list[Exception] = field(default_factory=list)


@contextmanager
def player_here(head: Head, settings: Config, parts: PlayerParts) -> Iterator[PlayerHere]:
    """A player in this process. Raises what it raises, at the end."""
    stopped = threading.Event()
    player = PlayerHere()

    def play() -> None:
        try:
            play_for(read_order(head.order("here", settings)), stopped.is_set, player.said.append, parts)
        except Exception as error:  # noqa: BLE001 - it is raised in the thread of the test
            player.failed.append(error)
        player.ended.set()

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield player
    finally:
        stopped.set()
        thread.join(timeout=60)
    for error in player.failed:
        raise error


def queue(head: Head, environment: str, tasks: int, members: int = 4) -> None:
    """Queue live tasks."""
    with open_store(head.home) as store:
        add_tasks(store, environment, range(3, 3 + tasks), members, "stream")


def acknowledged_once(store: Store) -> list[str]:
    """What contradicts the rules: members completed twice, gaps in turns. Empty if all is well."""
    twice = store.rows("""SELECT "group", member FROM episode WHERE state = 'completed' AND seat = 0 GROUP BY 1, 2 HAVING count(*) > 1""")
    gaps = store.rows(
        """SELECT e.id FROM episode e LEFT JOIN turn t ON t.episode = e.id GROUP BY e.id HAVING count(t.n) <> coalesce(max(t.n) + 1, 0)"""
    )
    return [*(f"{row[0]}/{row[1]} completed twice" for row in twice), *(f"episode {row[0]} has gaps" for row in gaps)]
