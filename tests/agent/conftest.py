"""A command line that is called in this process, one that is called in a process of its own, and homes with something in them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.agent.stand_ins import Place

from perdure.agent.cli import main
from perdure.memory import environments, versions
from perdure.memory.leases import BootClock
from perdure.memory.records import Ending, EpisodePlan, Turn, VersionRef
from perdure.memory.store import create_store
from perdure.memory.tasks import add_tasks, finish_task, lease_tasks
from perdure.memory.trajectories.journal import StoreJournal

ADD = "perdure:add"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


Call = Callable[..., Result]


@pytest.fixture
def perdure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls a command in this process, in an empty folder, without a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PERDURE_CACHE", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(arguments)
        output = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Result(code=end.value.code, out=output.out, err=output.err)

    return call


@pytest.fixture
def process(tmp_path: Path) -> Call:
    """Calls a command in a process of its own, in an empty folder."""

    def call(*arguments: str, prefix: Sequence[str] = (), cwd: Path = tmp_path, text: str = "") -> Result:
        done = subprocess.run(
            [*prefix, sys.executable, "-m", "perdure", *arguments],
            cwd=cwd,
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Result(code=done.returncode, out=done.stdout, err=done.stderr)

    return call


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with versions v0 (retired), v1 (serving), v2 (candidate), v3 (rejected), and two tasks, one of them played."""
    home = tmp_path / ".perdure"
    (tmp_path / "perdure.toml").write_text(f"model = 'tiny'\nstream.environments = ['{ADD}']\n")
    with create_store(home) as store:
        environments.register(store, ADD)
        versions.add_initial(store, "tiny", "hash-of-tiny")
        for name in ("v1", "v2", "v3"):
            (home / "versions" / name).mkdir()
            (home / "versions" / name / "adapter_model.safetensors").write_bytes(bytes(1000))
            versions.add_candidate(store, None, name, "v0", f"hash-of-{name}", f"versions/{name}", [ADD], None)
        versions.reject(store, "v3")
        versions.promote(store, "v1", "for the test")
        add_tasks(store, ADD, [7, 8], 1, "stream", "all")
        ((_, lease),) = lease_tasks(store, "actor", 1, 60.0, BootClock())
        journal = StoreJournal(store, BootClock())
        plan = EpisodePlan(
            environment=ADD,
            seed=7,
            group="task-1",
            member=0,
            purpose="live",
            sampler=VersionRef("v1"),
            temperature=1.0,
            lease=lease,
        )
        (episode,) = journal.start([plan])
        turn = Turn(
            prompt_ids=(1, 2, 3),
            action_ids=(4, 5),
            logprobs=(-0.25, -0.5),
            observation="1 + 1?\x1b[31m",
            action="2",
            reward=1.0,
            sampler=VersionRef("v1"),
            finish="stop",
        )
        journal.turns([(episode, 0, turn)])
        journal.finish([Ending(episode=episode, state="completed", stop_reason="terminated", total_reward=1.0, success=True, score=1.0)])
        finish_task(store, lease)
    return home


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A folder whose programs a daemon finds."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))))
    place = Place(tmp_path)
    try:
        yield place
    finally:
        for process in place.started:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=30)
