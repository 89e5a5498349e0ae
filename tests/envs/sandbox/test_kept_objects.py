"""What an environment makes once and keeps over its episodes, once a host; and hosts whose code changes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from perdure.envs.environment import Environment
from perdure.envs.guarded import EnvironmentFault, open_episode
from perdure.envs.registry import load_here
from perdure.envs.sandbox.host import Host
from perdure.envs.sandbox.sandbox_loading import start_sandboxed
from perdure.envs.sandbox.sandbox_settings import Sandbox

pytestmark = pytest.mark.processes

COSTLY = """
import functools, os

MADE = []  # who made what: a copy of this list comes with each worker


def make(what):
    MADE.append(f"{what} by {os.getpid()}")
    return list(range(1000))


TABLE = make("table")


@functools.cache
def words(size):
    return make(f"{size} words")


class Costly:
    turn_limit, max_tokens = 1, 4

    def __init__(self, size: int = 10):
        self.words = words(size)

    def reset(self, seed=0):
        return f"{'; '.join(MADE)}; played by {os.getpid()}; {id(TABLE)} {id(self.words)}"

    def step(self, action):
        return "", 0.0, True
"""


def first(environment: Environment, seed: int) -> str:
    env = open_episode(environment)
    try:
        return env.reset(seed)
    finally:
        env.close()


def test_a_costly_object_is_made_once_a_host_and_serves_all_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the top of the module; or, if it depends on options, in a function with a cache that the constructor calls."""
    (tmp_path / "costly.py").write_text(COSTLY)
    monkeypatch.syspath_prepend(tmp_path)
    environment, host = start_sandboxed("py:costly:Costly?size=7", Sandbox())
    try:
        together = [open_episode(environment) for _ in range(3)]
        for n, env in enumerate(together):
            env.begin(n)
        told = [env.first() for env in together]
        host.end(host._workers[0])  # so that a new one is forked
        told += [first(environment, seed) for seed in range(3, 6)]
        made = {text.partition("; played by ")[0] for text in told}
        assert len(made) == 1, "nothing was made in a worker"
        (what,) = made
        assert [part.partition(" by ")[0] for part in what.split("; ")] == ["table", "7 words"]
        assert len({text.rpartition("; ")[2] for text in told}) == 1, "the same objects, shared with the host"
    finally:
        for env in together:
            env.close()
        host.close()


CODE = """
class Game:
    turn_limit, max_tokens = 1, 4

    def reset(self, seed=0):
        return "one"

    def step(self, action):
        return "", 0.0, True
"""


def killed(host: Host) -> None:
    """The workers die with the host, but a moment after it."""
    workers = host.pids()
    os.killpg(host.pid, signal.SIGKILL)
    host._process.wait()
    while any(is_alive(worker) for worker in workers):
        time.sleep(0.001)


def is_alive(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_host_says_what_its_code_is_and_one_with_other_code_does_not_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recoded.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    environment, host = start_sandboxed("py:recoded:Game", Sandbox())
    try:
        assert environment.code == load_here("py:recoded:Game").code
        killed(host)
        assert first(environment, 1) == "one", "a host with the same code is started again"
        (tmp_path / "recoded.py").write_text(CODE.replace("one", "two"))
        killed(host)
        for _ in range(2):
            with pytest.raises(EnvironmentFault, match="its process died, and its code has changed since"):
                first(environment, 1)
    finally:
        host.close()
    again, other = start_sandboxed("py:recoded:Game", Sandbox())
    try:
        assert first(again, 1) == "two"
        assert again.code != environment.code
    finally:
        other.close()
