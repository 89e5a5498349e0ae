"""An interrupted learning job resumes from its last update: after a kill, after it was asked to stop, and with a damaged file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.tiny_models import tiny_llama

from perdure.agent.config import Config
from perdure.agent.config_file import load_config
from perdure.agent.processes.child import Stop
from perdure.agent.processes.job import run_job
from perdure.agent.stream.registering import register_environments
from perdure.envs.registry import load
from perdure.learners.checkpoint import read_checkpoint
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.jobs import add_job, get_job, list_jobs, steps
from perdure.memory.leases import end_all_leases
from perdure.memory.processes import events
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.versions import get_version, promote

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[2]
COIN = "py:tests.agent.coin:Coin"
WORD = "perdure:first-word"


def configured(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "perdure.toml"
    path.write_text(f"model = '{tiny_llama(folder / 'model')}'\n[sandbox]\ntrusted = ['perdure:', '{COIN}']\n")
    return path


def queue(store: Store, learner: str, environment: str, **options: object) -> int:
    register_environments(store, [load(environment)])
    small = {"prompts": 2, "samples": 4, "rank": 2, **options}
    return add_job(store, f"test-{len(list_jobs(store))}", [environment], LearnOrder(learner=learner, options=small, gate=False))


def started(home: Path, config: Path, job: int, fault: str = "") -> subprocess.Popen[bytes]:
    """The real process of a job; with `fault` it ends itself by SIGKILL there."""
    command = [sys.executable, "-m", "perdure.agent.processes.job", "--home", str(home), "--config", str(config), "--job", str(job)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PERDURE_FAULT": fault})


def killed(home: Path, config: Path, job: int, fault: str) -> None:
    with started(home, config, job, fault) as process:
        assert process.wait(timeout=120) == -signal.SIGKILL
    with open_store(home) as store:
        end_all_leases(store)  # as the supervisor does when it sees the death


def go_on(home: Path, config: Path, job: int) -> None:
    with open_store(home) as store:
        run_job(store.home, load_config(config).config, job, Stop())


def made(store: Store, job: int) -> list[tuple[int, int]]:
    return [(step.attempt, step.n) for step in steps(store, job)]


def test_a_killed_job_resumes_after_its_last_checkpoint_and_from_its_start_version(tmp_path: Path) -> None:
    """The third update is written down, but the process dies before its checkpoint is; meanwhile another version comes to serve."""
    config, home = configured(tmp_path), tmp_path / "home"
    with create_store(home) as store:
        other = queue(store, "grpo", COIN, updates=1)
        job = queue(store, "grpo", COIN, updates=4)
    go_on(home, config, other)
    killed(home, config, job, "between-step-and-checkpoint:3")
    checkpoint = read_checkpoint(home, job)
    assert checkpoint is not None
    assert (checkpoint.progress.step, checkpoint.progress.start) == (2, "v0")
    with open_store(home) as store:
        assert made(store, job) == [(1, 1), (1, 2), (1, 3)]
        promote(store, "v1", "for the test")
    go_on(home, config, job)
    with open_store(home) as store:
        assert made(store, job) == [(1, 1), (1, 2), (2, 3), (2, 4)]
        assert (get_job(store, job).state, get_job(store, job).attempt) == ("done", 2)
        assert get_version(store, "v2").parent == "v0", "not the version that serves by now"
        assert [step.n for step in steps(store, job)] == [1, 2, 3, 4]
        (twice,) = store.rows("SELECT count(*) AS n FROM (SELECT 1 FROM manifest WHERE on_policy GROUP BY episode HAVING count(*) > 1)")
        assert twice["n"] == 0
    assert list((home / "run" / "jobs").iterdir()) == []


def test_what_a_killed_job_learns_is_what_it_would_have_learned(tmp_path: Path) -> None:
    """Fixed demonstrations, no replay: there is no chance in it, so that the weights must be equal bit for bit."""
    found = []
    for name in ("killed", "whole"):
        config, home = configured(tmp_path / name), tmp_path / name / "home"
        with create_store(home) as store:
            job = queue(store, "sft", WORD, updates=4, lr=0.01)
        if name == "killed":
            killed(home, config, job, "mid-optimiser-step:3")
        go_on(home, config, job)
        with open_store(home) as store:
            attempts = {step.attempt for step in steps(store, job)}
            assert attempts == ({1, 2} if name == "killed" else {1})
            assert [n for _, n in made(store, job)] == [1, 2, 3, 4]
        found.append((home / "versions" / "v1" / "adapter_model.safetensors").read_bytes())
    assert found[0] == found[1]


@pytest.mark.long
def test_a_job_that_is_told_to_stop_goes_on_from_its_last_update(tmp_path: Path) -> None:
    config, home = configured(tmp_path), tmp_path / "home"
    with create_store(home) as store:
        job = queue(store, "grpo", COIN, updates=12, measure=0)
        with started(home, config, job) as process:
            deadline = time.monotonic() + 120
            while not steps(store, job) and time.monotonic() < deadline:
                time.sleep(0.01)
            process.terminate()
            assert process.wait(timeout=60) == 0
        checkpoint = read_checkpoint(home, job)
        assert checkpoint is not None
        assert 1 <= checkpoint.progress.step < 12
        assert made(store, job) == [(1, n) for n in range(1, checkpoint.progress.step + 1)]
        assert (get_job(store, job).state, store.rows("SELECT spent FROM job")[0]["spent"]) == ("queued", 0)
    go_on(home, config, job)
    with open_store(home) as store:
        assert [n for _, n in made(store, job)] == list(range(1, 13))
        assert {attempt for attempt, n in made(store, job) if n > checkpoint.progress.step} == {2}
        assert [event.kind for event in events(store) if event.kind in ("interrupted", "damaged")] == ["interrupted"]


@pytest.mark.long
def test_a_job_whose_kept_update_is_damaged_starts_over_and_says_so(tmp_path: Path) -> None:
    config, home = configured(tmp_path), tmp_path / "home"
    with create_store(home) as store:
        job = queue(store, "grpo", COIN, updates=3)
    killed(home, config, job, "mid-optimiser-step:3")
    file = home / "run" / "jobs" / f"{job}.pt"
    file.write_bytes(file.read_bytes()[:-1000])
    go_on(home, config, job)
    with open_store(home) as store:
        assert made(store, job) == [(2, 1), (2, 2), (2, 3)]
        assert get_job(store, job).state == "done"
        (told,) = [event for event in events(store) if event.kind == "damaged"]
        assert (told.subject, told.message) == (
            f"job {job}",
            f"{file} is damaged: the job starts over",
        )
    assert not file.exists()


def test_what_a_job_kept_goes_when_it_fails(tmp_path: Path) -> None:
    config = Config(model=str(tiny_llama(tmp_path / "model")))
    with create_store(tmp_path / "home") as store:
        job = queue(store, "grpo", WORD, updates=6)  # a model of random weights never says the first word
        with pytest.raises(Exception, match="nothing to learn from"):
            run_job(store.home, config, job, Stop())
        assert get_job(store, job).state == "failed"
        assert len(steps(store, job)) == 4
    assert list((tmp_path / "home" / "run" / "jobs").iterdir()) == []
