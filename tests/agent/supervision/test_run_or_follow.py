"""A command and its job: run here, followed, taken over, interrupted. With real processes, and a model that is real but tiny."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.agent.conftest import ADD, Call
from tests.tiny_models import tiny_llama

from perdure.agent.config import Config
from perdure.agent.config_file import LoadedConfig, load_config
from perdure.agent.home import HomeLock, lock_holder, lock_is_held
from perdure.agent.supervision.run_or_follow import require_done, run_or_follow, submit
from perdure.memory.contracts.orders import ProbeOrder
from perdure.memory.contracts.results import ProbeResult
from perdure.memory.errors import RuntimeFailure
from perdure.memory.jobs import cancel_job, finish_job, get_job, lease_job
from perdure.memory.leases import BootClock
from perdure.memory.processes import beat
from perdure.memory.store import open_store

pytestmark = pytest.mark.processes

COIN = "py:coin:Coin"


WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def another_dialect(adapter: Path, folder: Path) -> Path:
    """The same adapter as other programs write it: its name in the keys, a rank-stabilised scale, and a setting of theirs."""
    folder.mkdir()
    weights = load_file(adapter / WEIGHTS)
    save_file({key.replace(".weight", ".default.weight"): tensor for key, tensor in weights.items()}, folder / WEIGHTS)
    config = json.loads((adapter / CONFIG).read_text())
    config |= {"use_rslora": True, "lora_alpha": config["lora_alpha"] / config["r"] ** 0.5, "their_setting": "x"}
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def settings(adapter: Path) -> dict[str, object]:
    config = json.loads((adapter / CONFIG).read_text())
    return {**config, "target_modules": sorted(config["target_modules"])}


def silent(line: str) -> None:
    """Say nothing."""


def configure(folder: Path, model: str, *environments: str) -> Path:
    path = folder / "perdure.toml"
    path.write_text(f"model = '{model}'\n[stream]\nenvironments = {list(environments or [ADD])}\n[play]\nwidth = 32\n")
    return path


def test_a_job_is_followed_if_another_process_holds_the_home(tmp_path: Path) -> None:
    job_id = submit(tmp_path, [ADD], ProbeOrder())
    said: list[str] = []

    def daemon() -> None:
        time.sleep(0.3)
        with open_store(tmp_path) as store:
            leased = lease_job(store, "daemon", 60.0, BootClock(), job_id)
            assert leased is not None
            finish_job(store, leased[1], ProbeResult(version="v0", environments={}), None)

    with HomeLock(tmp_path):
        thread = threading.Thread(target=daemon)
        thread.start()
        job = run_or_follow(tmp_path, load_config(), job_id, said.append)
        thread.join()
    assert require_done(job).result == ProbeResult(version="v0", environments={})
    assert said == [f"job {job_id} is queued; process {os.getpid()} works in {tmp_path}"]
    assert not (tmp_path / "logs" / f"learner-{job_id}.log").exists()


def test_found_a_command_that_waits_is_told_for_what(tmp_path: Path) -> None:
    first, second = (submit(tmp_path, [ADD], ProbeOrder()) for _ in range(2))
    said: list[str] = []
    with HomeLock(tmp_path), open_store(tmp_path) as store:
        beat(store, "supervisor", os.getpid(), "playing", f"job {second}: learning is paused: busy; `perdure resume learning` goes on")
        thread = threading.Thread(target=lambda: run_or_follow(tmp_path, load_config(), second, said.append))
        thread.start()

        def wait_for(line: str) -> None:
            deadline = time.monotonic() + 60
            while line not in said and time.monotonic() < deadline:
                time.sleep(0.05)
            assert line in said, said

        wait_for(f"job {second} waits: job {first} comes first, probe {ADD}")
        cancel_job(store, first, "not now")
        wait_for(f"job {second} waits: learning is paused: busy; `perdure resume learning` goes on")
        cancel_job(store, second, "not now")
        thread.join(timeout=20)
        assert not thread.is_alive()


def test_a_job_is_taken_over_when_the_daemon_ends_and_its_failure_is_reported(tmp_path: Path) -> None:
    """The configured model does not exist, so the job fails: its error reaches the command that waits."""
    config = configure(tmp_path, "no-such-model")
    home = tmp_path / "home"
    job_id = submit(home, [ADD], ProbeOrder())
    lock = HomeLock(home)
    lock.acquire()
    threading.Timer(0.5, lock.release).start()
    job = run_or_follow(home, load_config(config), job_id, silent)
    assert job.state == "failed"
    with pytest.raises(RuntimeFailure, match="no model 'no-such-model'"):
        require_done(job)
    assert not lock_is_held(home)


def test_a_job_whose_process_dies_is_failed_with_its_last_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("wdth = 1\n")
    job_id = submit(tmp_path / "home", [ADD], ProbeOrder())
    loaded = LoadedConfig(config=Config(), origins={}, path=broken)
    job = run_or_follow(tmp_path / "home", loaded, job_id, silent)
    assert job.state == "failed"
    assert job.error is not None
    assert "its process died, refused: it ended with exit code 2" in job.error
    assert "wdth" in job.error


def test_a_command_that_cannot_start_its_job_ends_with_the_error(tmp_path: Path) -> None:
    job_id = submit(tmp_path, [ADD], ProbeOrder())
    (tmp_path / "logs" / f"learner-{job_id}.log").mkdir()
    with pytest.raises(IsADirectoryError):
        run_or_follow(tmp_path, load_config(), job_id, silent)
    assert not lock_is_held(tmp_path)
    with open_store(tmp_path) as store:
        assert get_job(store, job_id).state == "queued"


def test_a_job_without_its_vllm_server_is_failed_with_the_reason(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho vllm 0.26.0\n")
    python.chmod(0o700)
    path = tmp_path / "perdure.toml"
    path.write_text(f"model = 'no-such-model'\nengine = 'vllm'\nvllm.python = '{python}'\n[stream]\nenvironments = ['{ADD}']\n")
    home = tmp_path / "home"
    job_id = submit(home, [ADD], ProbeOrder())
    with pytest.raises(RuntimeFailure, match="the vLLM server cannot be kept: no model 'no-such-model'"):
        run_or_follow(home, load_config(path), job_id, silent)
    assert not lock_is_held(home)
    with open_store(home) as store:
        job = get_job(store, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error.startswith("the vLLM server cannot be kept: no model 'no-such-model'")


def test_an_interrupted_command_ends_the_process_of_its_job(tmp_path: Path) -> None:
    configure(tmp_path, str(tiny_llama(tmp_path / "model")))
    home = tmp_path / ".perdure"
    command = [sys.executable, "-m", "perdure", "probe", "--episodes", "100000"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not ((home / "logs").is_dir() and any((home / "logs").iterdir())):
            time.sleep(0.05)
        assert lock_holder(home) == running.pid
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert (out, err) == ("", "perdure: interrupted\n")
    assert not lock_is_held(home)
    with open_store(home) as store:
        job = get_job(store, 1)
    assert (job.state, job.error) == ("failed", "interrupted")
    alive = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(home) not in alive


@pytest.mark.long
def test_learn_gate_probe_and_import_on_a_tiny_model(process: Call, tmp_path: Path) -> None:
    """The whole way by commands alone, in a home that the first of them makes, on an environment of the working folder."""
    configure(tmp_path, str(tiny_llama(tmp_path / "model")), COIN, f"{COIN}?side=1")
    shutil.copy(Path(__file__).parents[1] / "coin.py", tmp_path)
    done = process("probe", "--episodes", "2", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["version"] == "v0"
    assert {name: row["episodes"] for name, row in found["environments"].items()} == {COIN: 2, f"{COIN}?side=1": 2}

    options = [part for option in ("updates=2", "prompts=4", "samples=8", "replay=0.5") for part in ("--option", option)]
    done = process("learn", "grpo", "--target", COIN, "--no-gate", *options)
    assert done.code == 0, done.err
    learned = json.loads(done.out)
    assert (learned["version"], learned["verdict"]) == ("v1", None)
    assert learned["diagnostics"]["update"] == 2

    done = process("gate", "v1", "--target", COIN)
    judged = json.loads(done.out)
    assert {"verdict", "reason", "environments", "pooled", "gain", "episodes"} <= set(judged)
    assert set(judged["episodes"]) == {"candidate", "anchor"}
    assert done.code == (0 if judged["verdict"] == "promote" else 1)
    rows = {row["name"]: row for row in json.loads(process("version", "list", "--json").out)}
    assert rows["v0"]["state"] == "serving"
    assert rows["v1"]["targets"] == [COIN]
    assert json.loads(process("status").out)["last_verdict"]["verdict"] == judged["verdict"]

    made = tmp_path / ".perdure" / "versions" / "v1"
    brought = another_dialect(made, tmp_path / "brought")
    done = process("version", "import", str(brought), "--target", COIN)
    assert done.code == 0, done.err
    imported = json.loads(done.out)
    assert (imported["name"], imported["state"], imported["parent"], imported["targets"]) == ("v2", "candidate", "v0", [COIN])
    kept = made.with_name("v2")
    ours, theirs = load_file(made / WEIGHTS), load_file(kept / WEIGHTS)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert settings(kept) == settings(made)
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "adapter_config.json").write_text("{}")
    (tmp_path / "pickled" / "adapter_model.bin").write_bytes(b"\x80\x04")
    done = process("version", "import", "pickled")
    assert done.code == 2
    assert "pickle" in done.err
    assert sorted(path.name for path in (tmp_path / ".perdure" / "versions").iterdir()) == ["v1", "v2"]
