"""The process of a job, run in this process: what it leaves behind, and how it resumes after a crash."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny_models import tiny_llama

from perdure.agent.config import Config
from perdure.agent.processes.child import Stop
from perdure.agent.processes.job import run_job
from perdure.agent.stream.registering import register_environments
from perdure.envs.registry import load
from perdure.learners.selection.kept_step import write_choice
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.contracts.results import LearnResult
from perdure.memory.errors import Unavailable, UnknownError
from perdure.memory.jobs import add_job, get_job, list_jobs, steps
from perdure.memory.store import Store, create_store
from perdure.memory.versions import list_versions, serving

pytestmark = pytest.mark.processes

GAME = "py:tests.agent.coin:Coin"


def queue(store: Store, **options: object) -> int:
    return add_job(store, f"test-{len(list_jobs(store))}", [GAME], LearnOrder(learner="iterative-sft", options=options, gate=False))


def test_a_job_that_died_after_its_candidate_goes_on_with_it(tmp_path: Path) -> None:
    config = Config(model=str(tiny_llama(tmp_path / "model")))
    with create_store(tmp_path / "home") as store:
        register_environments(store, [load(GAME)])
        job = queue(store, updates=1, rounds=1, prompts=2)
        run_job(store.home, config, job, Stop())
        first = get_job(store, job)
        assert isinstance(first.result, LearnResult)
        assert first.result.selection.step == 1
        assert [check.step for check in first.result.selection.checks] == [0, 1]
        assert list((store.home / "run" / "jobs").iterdir()) == []
        write_choice(store.home, job, first.result.selection)
        with store.write() as conn:  # as if the machine had stopped between the candidate's row and the job's end
            conn.execute("UPDATE job SET state = 'queued', owner = NULL, result = NULL, candidate = NULL WHERE id = ?", (job,))
        run_job(store.home, config, job, Stop())
        again = get_job(store, job)
        assert again.attempt == 2
        assert again.candidate == first.candidate == "v1"
        assert isinstance(again.result, LearnResult)
        assert again.result.selection == first.result.selection
        assert [version.name for version in list_versions(store)] == ["v1", "v0"]
        assert len(steps(store, job)) == 1
        assert serving(store).name == "v0"


def test_a_home_computes_in_the_precision_that_it_began_with(tmp_path: Path) -> None:
    config = Config(model=str(tiny_llama(tmp_path / "model")))
    with create_store(tmp_path / "home") as store:
        register_environments(store, [load(GAME)])
        run_job(store.home, config, queue(store, updates=1, rounds=1, prompts=1), Stop())
        kept = [tuple(row) for row in store.rows("SELECT device, dtype FROM precision")]
        assert kept[0][0] == "cpu"
        assert kept[0][1] in ("bfloat16", "float32")
        other = "float32" if kept[0][1] == "bfloat16" else "bfloat16"
        with store.write() as conn:
            conn.execute("UPDATE precision SET dtype = ?", (other,))
        run_job(store.home, config, queue(store, updates=1, rounds=1, prompts=1), Stop())
        assert store.rows("SELECT dtype FROM precision")[0]["dtype"] == other


def test_a_job_is_tried_again_if_the_error_was_not_its_fault(tmp_path: Path) -> None:
    """A model whose files cannot be had is the job's own failure; a home that cannot be written is not."""
    config = Config(model=str(tiny_llama(tmp_path / "model")))
    with create_store(tmp_path / "home") as store:
        register_environments(store, [load(GAME)])
        job = queue(store, updates=1, rounds=1, prompts=1)
        versions = store.home / "versions"
        versions.rmdir()
        versions.write_text("where the candidate should go")
        with pytest.raises(Unavailable):
            run_job(store.home, config, job, Stop())
        assert (get_job(store, job).state, store.rows("SELECT spent FROM job")[0]["spent"]) == ("queued", 1)
        with pytest.raises(UnknownError):
            run_job(store.home, Config(model="no-such-model"), job, Stop())
        assert (get_job(store, job).state, get_job(store, job).attempt) == ("failed", 2)


def test_a_job_that_is_asked_to_stop_goes_back_to_the_queue(tmp_path: Path) -> None:
    config = Config(model=str(tiny_llama(tmp_path / "model")))
    stop = Stop()
    stop.ask()
    with create_store(tmp_path / "home") as store:
        register_environments(store, [load(GAME)])
        job = queue(store, updates=1, rounds=1, prompts=1)
        run_job(store.home, config, job, stop)
        assert (get_job(store, job).state, store.rows("SELECT spent FROM job")[0]["spent"]) == ("queued", 0)
