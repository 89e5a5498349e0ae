"""A daemon whose environment changes in the middle of its life finds out by itself. The model is tiny and real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.tiny_models import sharpen, tiny_llama

from perdure.agent.commands.status import report
from perdure.agent.config_file import load_config
from perdure.agent.processes.child import Stop
from perdure.agent.processes.job import run_job
from perdure.agent.stream.registering import register_environments
from perdure.envs.registry import load
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.environments import list_environments
from perdure.memory.jobs import add_job, get_job, list_jobs
from perdure.memory.leases import BootClock
from perdure.memory.processes import events, last_event
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.trajectories.episodes import list_episodes
from perdure.memory.upkeep.integrity import check
from perdure.memory.versions import get_version, moves, serving
from perdure.memory.watches import watches

pytestmark = pytest.mark.processes

HERE = Path(__file__).parents[1]
GAME, COIN = "py:switched:Switched", "py:coin:Coin"
PATIENCE_S = 240.0
CONFIG = f"""
model = "model"
[play]
width = 32
[stream]
environments = ["{GAME}", "{COIN}"]
tasks_per_round = 4
[learn]
every_episodes = 0
[gate]
panel = false
[sandbox]
trusted = ["{GAME}", "{COIN}"]
"""
LEARNS = {"updates": 18, "prompts": 8, "samples": 8, "lr": 0.01, "rank": 8, "alpha": 16, "check_every": 0, "replay": 0.0}


@dataclass
class Life:
    """A folder with a home in which v1 has learned the game and was promoted by its gate, and the daemon that plays there."""

    path: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.path / ".perdure"

    def learn(self) -> None:
        with create_store(self.home) as store:
            register_environments(store, [load(GAME), load(COIN)])
            job = add_job(store, "the first", [GAME], LearnOrder(learner="grpo", options=LEARNS))
            run_job(store.home, load_config(self.path / "perdure.toml").config, job, Stop())
            assert get_job(store, job).verdict == "promote", get_job(store, job).result
            assert serving(store).name == "v1"

    def switch(self, rule: str) -> None:
        (self.path / "new").write_text(rule)
        (self.path / "new").replace(self.path / "switch")

    def daemon(self) -> None:
        with (self.path / "out").open("ab") as out:
            command = [sys.executable, "-m", "perdure", "run"]
            self.started.append(subprocess.Popen(command, cwd=self.path, stdout=out, stderr=out, env={**os.environ, "PYTHONPATH": "."}))

    def stop(self) -> None:
        for process in self.started:
            process.terminate()
            assert process.wait(timeout=60) == 0, (self.path / "out").read_text()
        self.started.clear()

    def wait(self, what: str, condition: Callable[[Store], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with open_store(self.home) as store:
                if condition(store):
                    return
            time.sleep(0.2)
        with open_store(self.home) as store:
            pytest.fail(f"waited for {what}; {json.dumps(report(store).as_json())}; {[event.as_json() for event in events(store)]}")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a home in which v1 serves; each test has a copy."""
    folder = tmp_path_factory.mktemp("learned")
    sharpen(tiny_llama(folder / "model"), 1)
    for name in ("switched.py", "coin.py"):
        shutil.copy(HERE / name, folder)
    (folder / "perdure.toml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        for module in ("switched", "coin"):
            patch.delitem(sys.modules, module, raising=False)
        Life(folder).learn()
    return folder


@pytest.fixture
def life(learned: Path, tmp_path: Path) -> Iterator[Life]:
    life = Life(tmp_path / "life")
    shutil.copytree(learned, life.path)
    try:
        yield life
    finally:
        for process in life.started:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=30)


def has_watched(tasks: int) -> Callable[[Store], object]:
    return lambda store: all(watch.seen.tasks >= tasks for watch in watches(store, "v1")) and len(watches(store, "v1")) == 2


@pytest.mark.long
def test_an_environment_that_turns_impossible_is_named_and_nothing_else_is_lost(life: Life) -> None:
    life.daemon()
    life.wait("a watch that has looked at some tasks", has_watched(3))
    life.switch("nobody")
    life.wait("the finding", lambda store: last_event(store, "changed"))
    life.stop()
    with open_store(life.home) as store:
        event = last_event(store, "changed")
        assert event is not None
        assert event.subject == GAME
        assert event.message.endswith("this environment has changed, and v1 is its anchor from now on")
        changed = {one.name: one for one in list_environments(store)}
        assert changed[GAME].changed_at is not None
        assert (changed[GAME].anchor, changed[COIN].changed_at) == ("v1", None)
        assert (serving(store).name, [move.kind for move in moves(store)]) == ("v1", ["initial", "promote"])
        assert [found for found in check(store, BootClock()) if found.level == "error"] == []
        assert f"{GAME} has changed (" in report(store).watch.line()


@pytest.mark.long
def test_a_version_that_has_lost_its_skill_is_rolled_back_by_itself(life: Life) -> None:
    """What v1 learned is wrong now, so that v0, which learned nothing, scores more."""
    life.daemon()
    life.wait("a watch that has looked at some tasks", has_watched(3))
    life.switch("others")
    life.wait("the rollback", lambda store: serving(store).name == "v0")
    life.wait("play by the version before", lambda store: [one for one in list_episodes(store, GAME, "v0") if one.purpose == "live"])
    life.stop()
    with open_store(life.home) as store:
        (*_, move) = moves(store)
        assert (move.kind, move.from_version, move.to_version) == ("rollback", "v1", "v0")
        assert move.reason.startswith(f"live play in {GAME} fell: ")
        assert "gate 2: v1 scores " in move.reason
        confirming = list_jobs(store)[0]
        assert (confirming.kind, confirming.state, confirming.verdict) == ("gate", "done", "promote")
        assert (get_version(store, "v1").state, watches(store, "v1")) == ("retired", [])
        assert [found for found in check(store, BootClock()) if found.level == "error"] == []


def test_what_a_killed_daemon_saw_is_not_looked_at_again(life: Life) -> None:
    life.daemon()
    life.wait("a watch that has looked at some tasks", has_watched(2))
    life.started[0].kill()
    life.started.pop().wait()
    with open_store(life.home) as store:
        before = {watch.environment: watch for watch in watches(store, "v1")}
    life.daemon()
    life.wait("more", lambda store: all(watch.seen.tasks > before[watch.environment].seen.tasks for watch in watches(store, "v1")))
    life.stop()
    with open_store(life.home) as store:
        for watch in watches(store, "v1"):
            sql = "SELECT count(*) AS n FROM task WHERE environment = ? AND state = 'done' AND id <= ? AND id > ?"
            first = min(row["id"] for row in store.rows("SELECT task AS id FROM episode WHERE version = 'v1' AND purpose = 'live'"))
            done = store.rows(sql, (watch.environment, watch.last_task, first - 1))[0]["n"]
            assert watch.seen.tasks <= done
