"""The process of a job, run in this process: what it leaves behind, and how it goes on after a crash."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.tiny_models import tiny_llama

from perdure.agent.config import Config
from perdure.agent.home import register_environments
from perdure.agent.learner import Pulse, run_job
from perdure.memory.jobs import add_job, get_job, list_jobs, steps
from perdure.memory.store import Store, create_store
from perdure.memory.versions import list_versions, serving

GAME = "py:tests.agent.coin:Coin"


def queue(store: Store, **options: object) -> int:
    return add_job(store, f"test-{len(list_jobs(store))}", "learn", "iterative-sft", [GAME], {"learn": options, "gate": False})


def test_a_job_that_died_after_its_candidate_goes_on_with_it(tmp_path: Path) -> None:
    config = Config(model=str(tiny_llama(tmp_path / "model")))
    with create_store(tmp_path / "home") as store:
        register_environments(store, [GAME])
        job = queue(store, updates=1, rounds=1, prompts=2)
        assert run_job(store.home, config, job, threading.Event()) == 0
        first = get_job(store, job)
        with store.write() as conn:  # as if the machine had stopped between the candidate's row and the job's end
            conn.execute("UPDATE job SET state = 'queued', owner = NULL, result = NULL, candidate = NULL WHERE id = ?", (job,))
        assert run_job(store.home, config, job, threading.Event()) == 0
        again = get_job(store, job)
        assert again.attempt == 2
        assert again.candidate == first.candidate == "v1"
        assert [version.name for version in list_versions(store)] == ["v1", "v0"]
        assert len(steps(store, job)) == 1
        assert serving(store).name == "v0"


def test_a_home_computes_in_the_precision_that_it_began_with(tmp_path: Path) -> None:
    config = Config(model=str(tiny_llama(tmp_path / "model")))
    with create_store(tmp_path / "home") as store:
        register_environments(store, [GAME])
        assert run_job(store.home, config, queue(store, updates=1, rounds=1, prompts=1), threading.Event()) == 0
        kept = [tuple(row) for row in store.rows("SELECT device, dtype FROM precision")]
        assert kept[0][0] == "cpu"
        assert kept[0][1] in ("bfloat16", "float32")
        other = "float32" if kept[0][1] == "bfloat16" else "bfloat16"
        with store.write() as conn:
            conn.execute("UPDATE precision SET dtype = ?", (other,))
        assert run_job(store.home, config, queue(store, updates=1, rounds=1, prompts=1), threading.Event()) == 0
        assert store.rows("SELECT dtype FROM precision")[0]["dtype"] == other


def test_silence_is_counted_from_the_last_question(tmp_path: Path) -> None:
    stop = threading.Event()
    pulse = Pulse(stop)
    time.sleep(0.05)
    assert pulse.silent_s >= 0.05
    assert not pulse()
    assert pulse.silent_s < 0.05
    stop.set()
    assert pulse()


def test_a_job_that_hangs_is_ended(tmp_path: Path) -> None:
    create_store(tmp_path / "home").close()
    program = f"""
import time
from pathlib import Path
from perdure.agent import learner
from perdure.memory.store import open_store
class Silent:
    silent_s = learner.HANG_S + 1
with open_store(Path({str(tmp_path / "home")!r})) as store:
    learner._end_if_hanging(store, "learner-1", Silent())
time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    with create_store(tmp_path / "home") as store:
        assert [row["kind"] for row in store.rows("SELECT kind FROM event")] == ["hangs"]
