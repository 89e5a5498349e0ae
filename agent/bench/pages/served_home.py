"""The processes of the benchmark of the page, each while a block lasts: the page alone, a daemon with its page, a job, a browser.

The home is the large one of `large_store.py`, made so that the configured model can play and learn in it. Left out: what is measured
(`page_speed.py`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from perdure.agent.bench.pages.page_clients import fetch
from perdure.agent.processes.process_names import ACTOR, WEB
from perdure.agent.supervision.children import CHILD_ENVIRONMENT, Child, end_children
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.environments import list_environments, register, retire
from perdure.memory.errors import PerdureError, RuntimeFailure
from perdure.memory.jobs import list_jobs, steps
from perdure.memory.processes import processes
from perdure.memory.store import Store, open_store

POLL_S = 0.2
UP_S = 60.0
LEARNS_S = 900.0
"""How long a daemon may take until it plays, and a job to its first update: it loads the model, plays and learns."""
ENDLESS = 100_000
"""Updates of the job: it is stopped before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPage:
    """A page that answers."""

    home: Path
    config: Path
    port: int
    token: str
    pid: int

    def cpu_s(self) -> float:
        """Seconds of processors that its process has taken so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def prepare(home: Path, files: ModelFiles, environment: str) -> None:
    """Make the home one of this model, with nothing to play. The environments of its history cannot be loaded, so they are retired."""
    with open_store(home) as store, store.write() as conn:
        conn.execute("UPDATE version SET base_model = ?, base_hash = ?", (files.name, files.hash))
        conn.execute("DELETE FROM task WHERE state = 'queued'")
        for row in list_environments(store):
            retire(store, row.name)
        register(store, environment)


@contextmanager
def serving_page(home: Path, model: str, device: str, environment: str) -> Iterator[ServedPage]:
    """The web process of a daemon, without the daemon. Raises `RuntimeFailure` if it does not come up."""
    config, port = _configured(home, model, device, environment)
    child = Child(WEB, "perdure.agent.web.program", ["--home", str(home), "--config", str(config)], home)
    try:
        _wait("the page", UP_S, lambda: _answers(port), child.poll)
        yield ServedPage(home=home, config=config, port=port, token=_token(home), pid=child.pid)
    finally:
        end_children([child], 5.0, hurry=lambda: False)


@contextmanager
def running_daemon(home: Path, model: str, device: str, environment: str) -> Iterator[ServedPage]:
    """A daemon that plays, and its page. Raises `RuntimeFailure` if it does not come to play."""
    config, port = _configured(home, model, device, environment)
    with _command(home, config, "run") as command, open_store(home) as store:

        def plays() -> bool:
            states = {process.name: process.state for process in processes(store)}
            return states.get(ACTOR) == "playing" and _answers(port)

        _wait("the daemon", LEARNS_S, plays, command.ended)
        [pid] = [process.pid for process in processes(store) if process.name == WEB]
        yield ServedPage(home=home, config=config, port=port, token=_token(home), pid=pid)
        command.require_going()


@contextmanager
def learning(page: ServedPage, environment: str) -> Iterator[None]:
    """A job of `perdure learn` that has made its first update and goes on. Raises `RuntimeFailure` if it ends before the block does.

    The daemon does it, if one runs.
    """
    # It samples for each update, and needs no success: a model that solves nothing learns too. Checks could end it.
    options = {"updates": ENDLESS, "replay": 0.0, "prompts": 4, "samples": 8, "check_every": 0}
    given = [part for name, value in options.items() for part in ("--option", f"{name}={value}")]
    words = ["learn", "sdft", "--target", environment, "--no-gate", "--json", *given]
    with _command(page.home, page.config, *words) as command, open_store(page.home) as store:
        _wait("the job that was to learn", LEARNS_S, lambda: updates_of_last_job(store) > 0, command.ended)
        yield
        command.require_going()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """A command of `perdure` that goes on."""

    words: tuple[str, ...]
    process: subprocess.Popen[bytes]
    log: Path

    def ended(self) -> str | None:
        code = self.process.poll()
        return None if code is None else f"ended with {code}: {self.log.read_text()[-500:]}"

    def require_going(self) -> None:
        """Raises `RuntimeFailure` if it has ended."""
        if (how := self.ended()) is not None:
            raise RuntimeFailure(f"perdure {self.words[0]} {how}")


@contextmanager
def _command(home: Path, config: Path, *words: str) -> Iterator[_Running]:
    """A command over the home."""
    log = home / "logs" / f"bench-{words[0]}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "perdure", *words, "--home", str(home), "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**CHILD_ENVIRONMENT, **os.environ},
        )
    try:
        yield _Running(words=words, process=process, log=log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def updates_of_last_job(store: Store) -> int:
    """How many updates the job that was queued last has made."""
    [last] = list_jobs(store, limit=1)
    return 0 if last.state == "done" else len(steps(store, last.id))


@contextmanager
def page_open(page: ServedPage) -> Iterator[None]:
    """A browser that has the first page open. Raises `RuntimeFailure` if it ends before the block does."""
    words = [sys.executable, "-P", "-m", "perdure.agent.bench.pages.page_clients", str(page.port)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(page.token + "\n")
        process.stdin.flush()
        process.stdout.readline()  # the page is open, or the process has ended
        yield
        if process.poll() is not None:
            assert process.stderr is not None
            raise RuntimeFailure(f"the browser of the benchmark ended: {process.stderr.read()[-500:]}")
    finally:
        process.kill()
        process.communicate()


def _answers(port: int) -> bool:
    try:
        fetch(port, "", "/livez")
    except (OSError, PerdureError):
        return False
    return True


def _wait(what: str, patience_s: float, condition: Callable[[], bool], ended: Callable[[], object]) -> None:
    """Raises `RuntimeFailure` if it has `ended`, or takes too long."""
    deadline = time.monotonic() + patience_s
    while not condition():
        how = ended()
        if how is not None or time.monotonic() > deadline:
            raise RuntimeFailure(f"{what} did not come up: it {how or f'took longer than {patience_s:g} s'}")
        time.sleep(POLL_S)


def _configured(home: Path, model: str, device: str, environment: str) -> tuple[Path, int]:
    """A configuration for the home, and the port that it names. A daemon learns only what it is asked to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    config = home.parent / "bench.toml"
    config.write_text(
        f"model = {json.dumps(model)}\ndevice = {json.dumps(device)}\n[web]\nport = {port}\n"
        f"[stream]\nenvironments = [{json.dumps(environment)}]\n[disk]\nfloor_gib = 0.0\n[learn]\nevery_episodes = 0\n"
    )
    return config, port


def _token(home: Path) -> str:
    return (home / "run" / "token").read_text().strip()
