"""The daemon as a user runs it: real processes and a tiny real model. What ends its processes before their time is in `tests/faults`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.tiny_models import tiny_llama

from perdure.memory.gates import pairs_of
from perdure.memory.jobs import get_job, steps
from perdure.memory.store import Store, open_store
from perdure.memory.versions import list_versions

pytestmark = pytest.mark.processes

COIN, OTHER = "py:coin:Coin", "py:coin:Coin?side=1"
PATIENCE_S = 60.0
CONFIG = """
model = "model"
[play]
width = 8
members = 4
[stream]
environments = {environments}
tasks_per_round = 2
[learn]
every_episodes = {every}
options = {{ updates = 1, prompts = 2, samples = 4, replay = 0.0 }}
"""


@dataclass
class Place:
    """A folder with a configuration, a model and an environment, and the daemons that were started in it."""

    path: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.path / ".perdure"

    def configure(self, environments: tuple[str, ...] = (COIN, OTHER), every: int = 0) -> None:
        (self.path / "perdure.toml").write_text(CONFIG.format(environments=json.dumps(environments), every=every))

    def run(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.path / f"out-{len(self.started)}").open("wb") as out:
            command = [sys.executable, "-m", "perdure", "run", *arguments]
            process = subprocess.Popen(command, cwd=self.path, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        self.started.append(process)
        return process

    def output(self) -> str:
        """What the last daemon wrote, with its children's logs."""
        logs = sorted((self.home / "logs").glob("*.log")) if self.home.is_dir() else []
        files = [self.path / f"out-{len(self.started) - 1}", *logs]
        return "\n".join(f"--- {file.name}\n{file.read_text()}" for file in files)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    tiny_llama(tmp_path / "model")
    (tmp_path / "coin.py").write_text((Path(__file__).parents[1] / "coin.py").read_text())
    place = Place(tmp_path)
    place.configure()
    try:
        yield place
    finally:
        for process in place.started:
            if process.poll() is None:
                process.terminate()
            process.wait(timeout=30)


def count(store: Store, sql: str) -> int:
    return int(store.rows(sql)[0][0])


def assert_in_order(store: Store) -> None:
    """Nothing is left as if it were being played, and nothing was played twice."""
    assert count(store, "SELECT count(*) FROM episode WHERE state = 'running'") == 0
    assert count(store, "SELECT count(*) FROM task WHERE state = 'leased'") == 0
    assert count(store, "SELECT count(*) FROM device WHERE owner IS NOT NULL AND lease_until >= 0") == 0
    played = """SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM episode WHERE state = 'completed' GROUP BY "group", member)"""
    assert count(store, played) == 1
    unplayed = """
        SELECT count(*) FROM task t WHERE t.state = 'done'
        AND (SELECT count(*) FROM episode e WHERE e.task = t.id AND e.state = 'completed') <> t.members
    """
    assert count(store, unplayed) == 0


def test_cycle_ends_with_a_verdict_and_a_summary(place: Place) -> None:
    place.configure(every=32)
    assert place.run("--cycles", "1").wait(timeout=3 * PATIENCE_S) == 0, place.output()
    with open_store(place.home) as store:
        assert_in_order(store)
        job = get_job(store, 1)
        assert job.state == "done", place.output()
        assert job.verdict in ("promote", "reject", "inconclusive")
        assert steps(store, 1)
        assert pairs_of(store, 1)
    for expected in ("1 verdict", "Gate 1 of v1", "Next:"):  # the view looks every second, and so may miss all of this small job
        assert expected in place.output()


@pytest.mark.long
def test_run_that_can_learn_nothing_ends_with_1_and_the_reason(place: Place) -> None:
    place.configure(("perdure:add",), every=16)
    assert place.run("--until-promoted").wait(timeout=2 * PATIENCE_S) == 1, place.output()
    said = place.output()
    assert "learning (job 1): perdure:add succeeds in 0% of its live episodes" in said, "right answers as hints are tried once"
    assert "nothing left to learn: perdure:add was given right answers since this version serves, and they led to no promotion" in said


def test_model_that_is_not_there_ends_the_run_with_2_and_what_to_do(place: Place) -> None:
    (place.path / "model" / "model.safetensors").unlink()
    assert place.run().wait(timeout=PATIENCE_S) == 2
    assert "has no weights: expected model.safetensors" in place.output()


@pytest.mark.parametrize(
    "fault", [pytest.param("cannot be loaded", marks=pytest.mark.long), "lacks weights that a llama model needs: model.norm.weight"]
)
def test_model_that_does_not_load_ends_the_run_with_2_and_keeps_no_home(place: Place, fault: str) -> None:
    weights = place.path / "model" / "model.safetensors"
    if fault == "cannot be loaded":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        save_file({name: tensor for name, tensor in load_file(weights).items() if name != "model.norm.weight"}, weights, {"format": "pt"})
    assert place.run().wait(timeout=PATIENCE_S) == 2
    assert fault in place.output()
    with open_store(place.home) as store:
        assert list_versions(store) == [], "another model can be the home's"


def test_environment_that_is_not_there_ends_the_run_before_it_begins(place: Place) -> None:
    place.configure(("perdure:largest-numbr",))
    assert place.run().wait(timeout=PATIENCE_S) == 2
    assert "largest-number" in place.output()
    assert not (place.home / "logs" / "actor.log").exists()


def test_supervisor_loads_no_torch() -> None:
    modules = "perdure.agent.supervision.supervisor, perdure.agent.show.live_view, perdure.agent.show.summary, perdure.agent.commands.run"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
