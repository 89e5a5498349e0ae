"""Learning jobs of several ranks as real processes: under torchrun, with ranks as children, and with ranks that are killed or hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.tiny_models import tiny_llama

from perdure.agent.cluster.local_placement import LocalPlacement
from perdure.agent.cluster.placement import ClusterPiece, Needs
from perdure.agent.cluster.ranks.rank_requests import RankPlacer, ask_for_ranks, ends_of_ranks, forget_requests, withdraw_ranks
from perdure.agent.config import Config
from perdure.agent.processes.child import Stop
from perdure.agent.processes.exit_codes import EXIT_CODES
from perdure.agent.processes.job import run_job
from perdure.agent.stream.registering import register_environments
from perdure.envs.registry import load
from perdure.learners.weights.adapters import load_version
from perdure.learners.weights.base_models import resolve_model
from perdure.memory.contracts.orders import Job, LearnOrder
from perdure.memory.contracts.results import LearnResult, Update
from perdure.memory.jobs import add_job, get_job, list_jobs, steps
from perdure.memory.store import Store, create_store
from perdure.memory.versions import get_version, list_versions

pytestmark = pytest.mark.processes

GAME = "py:tests.agent.coin:Coin"
LIMIT_S = 240.0
SHORT = {"prompts": 2, "samples": 4, "check_every": 0, "dtype": "float32", "rank": 4}


def queue(store: Store, **options: object) -> int:
    register_environments(store, [load(GAME)])
    order = LearnOrder(learner="grpo", options={**SHORT, **options}, gate=False)
    return add_job(store, f"test-{len(list_jobs(store))}", [GAME], order)


def configured(folder: Path, *, learners: int = 1, timeout_s: int = 120, start_s: int = 200, more: str = "") -> Path:
    """A configuration with a tiny model."""
    model = folder / "model"
    if not model.exists():
        tiny_llama(model)
    file = folder / f"perdure-{learners}.toml"
    file.write_text(
        f'model = "{model}"\n[cluster]\nlearners = {learners}\nlearner_timeout_s = {timeout_s}\nstart_timeout_s = {start_s}\n{more}\n'
    )
    return file


def arguments(store: Store, config: Path, job: int) -> list[str]:
    return ["perdure.agent.processes.job", "--home", str(store.home), "--config", str(config), "--job", str(job)]


def started(store: Store, config: Path, job: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", *arguments(store, config, job)], env={**os.environ, "PERDURE_PARENT": str(os.getpid())})


def updates(store: Store, job: int) -> list[Update]:
    return [step.update for step in steps(store, job)]


def ranks_under(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes of ranks that this job started."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                command = (folder / "cmdline").read_bytes().split(b"\0")
            except (OSError, IndexError):
                continue
            if parent == process.pid and command[-2:-1] == [b"rank"]:
                found.append(int(folder.name))
    return found


def wait_until(is_true: Callable[[], object], what: str) -> None:
    until_s = time.monotonic() + LIMIT_S
    while not is_true():
        assert time.monotonic() < until_s, f"waited in vain for {what}"
        time.sleep(0.1)


def learned(store: Store, job: int) -> Job:
    found = get_job(store, job)
    assert found.state == "done", found
    assert isinstance(found.result, LearnResult)
    assert len(steps(store, job)) == 2
    return found


@pytest.mark.long
def test_ranks_as_children_and_under_torchrun_learn_what_one_learns(tmp_path: Path) -> None:
    """The first update is of the same episodes, so its numbers are the same."""
    firsts = []
    for name, learners, command in (
        ("one", 1, [sys.executable, "-m"]),
        ("children", 2, [sys.executable, "-m"]),
        ("torchrun", 1, [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29541", "-m"]),
    ):
        with create_store(tmp_path / name) as store:
            job = queue(store, updates=2, lr=1e-3)
            done = subprocess.run(
                [*command, *arguments(store, configured(tmp_path, learners=learners), job)],
                capture_output=True,
                timeout=LIMIT_S,
                check=False,
            )
            assert done.returncode == 0, done.stderr.decode()[-3000:]
            learned(store, job)
            assert [version.name for version in list_versions(store)] == ["v1", "v0"]
            assert not (store.home / "run" / "ranks").exists()
            firsts.append(updates(store, job)[0])
    one, *others = firsts
    assert one.grad_norm > 0
    for other in others:
        assert (other.tokens, other.groups) == (one.tokens, one.groups)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("options", [{"check_every": 1, "check_episodes": 2}, {"tuning": "full", "interpolate": 0.5}], ids=["lora", "full"])
def test_a_sharded_job_makes_a_candidate_like_any_other(tmp_path: Path, options: dict[str, object]) -> None:
    norms = []
    for learners, more in ((1, {}), (2, {"sharded": True})):
        with create_store(tmp_path / f"home-{learners}") as store:
            job = queue(store, updates=2, lr=1e-3, **options, **more)
            process = started(store, configured(tmp_path, learners=learners), job)
            assert process.wait(LIMIT_S) == 0
            found = learned(store, job)
            assert found.candidate == "v1"
            version = get_version(store, "v1")
            assert version.path is not None
            files = resolve_model(str(tmp_path / "model"), tmp_path, print)
            assert load_version(store.home, version.path, version.hash, files)
            norms.append(updates(store, job)[0].grad_norm)
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_a_job_whose_rank_is_killed_is_tried_again_and_goes_on_after_its_last_update(tmp_path: Path) -> None:
    config = configured(tmp_path, learners=2)
    with create_store(tmp_path / "home") as store:
        job = queue(store, updates=40, lr=1e-3)
        process = started(store, config, job)
        try:
            wait_until(lambda: len(updates(store, job)) >= 2, "two updates")
            [rank] = ranks_under(process)
            os.kill(rank, signal.SIGKILL)
            killed_s = time.monotonic()
            assert process.wait(60) == EXIT_CODES["unavailable"]
            assert time.monotonic() - killed_s < 30
        finally:
            process.kill()
        found = get_job(store, job)
        assert found.state == "queued", found
        made = len(updates(store, job))
        again = started(store, config, job)
        try:
            wait_until(lambda: len(updates(store, job)) > made, "a further update")
            assert [step.attempt for step in steps(store, job)][-1] == 2
            [rank] = ranks_under(again)
        finally:
            again.kill()
        again.wait(30)
        wait_until(lambda: not Path(f"/proc/{rank}").exists(), "the end of the rank whose job was killed")


@pytest.mark.long
def test_a_rank_that_hangs_ends_the_attempt_within_its_limit(tmp_path: Path) -> None:
    config = configured(tmp_path, learners=2, timeout_s=10)
    with create_store(tmp_path / "home") as store:
        job = queue(store, updates=40, lr=1e-3)
        process = started(store, config, job)
        try:
            wait_until(lambda: len(updates(store, job)) >= 1, "an update")
            [rank] = ranks_under(process)
            os.kill(rank, signal.SIGSTOP)
            assert process.wait(60) == EXIT_CODES["unavailable"]
            assert get_job(store, job).state == "queued"
            wait_until(lambda: not Path(f"/proc/{rank}").exists(), "the end of the rank that hangs")
        finally:
            process.kill()


def test_ranks_are_placed_by_the_process_of_the_cluster_when_there_is_one(tmp_path: Path) -> None:
    """Here the process of the test is that process, with places on this machine."""
    config = configured(tmp_path, learners=2, more='address = "local"')
    with create_store(tmp_path / "home") as store, closing(LocalPlacement(Needs(cpus=1.0))) as placement:
        job, placer = queue(store, updates=2, lr=1e-3), RankPlacer(store.home, placement)
        requests, asked = store.home / "run" / "ranks", False
        process = started(store, config, job)
        try:
            until_s = time.monotonic() + LIMIT_S
            while process.poll() is None and time.monotonic() < until_s:
                placer.tick()
                for end in placement.ended(0.2):
                    placer.note(end.key, end.error)
                asked |= (requests / f"{job}.json").is_file()
            assert process.poll() == 0
        finally:
            process.kill()
            process.wait()
        learned(store, job)
        assert asked
        assert list(requests.iterdir()) == []
        placer.tick()
        wait_until(lambda: placement.standing() == [], "the end of the rank")


def test_a_rank_that_nobody_has_room_for_is_said_to_be_too_large(tmp_path: Path) -> None:
    config = configured(tmp_path, learners=2, start_s=1, more="learner_gpus = 64.0")
    with create_store(tmp_path / "home") as store:
        job = queue(store, updates=2)
        process = started(store, config, job)
        try:
            assert process.wait(LIMIT_S) == EXIT_CODES["unavailable"]
        finally:
            process.kill()
        found = get_job(store, job)
        assert found.state == "queued"
        said = str(found.error)
        assert "0 of the 1 other ranks of this job came within 1 s" in said
        assert "asks for 64 GPUs; 0 of 1 nodes" in said or "asks for 64 GPUs" in said


def test_requests_of_jobs_that_are_at_work_no_more_are_forgotten(tmp_path: Path) -> None:
    piece = ClusterPiece(key="job-3.1-rank-1", kind="rank", order=b"{}", needs=Needs(cpus=0.5))
    for job in (3, 4):
        ask_for_ranks(tmp_path, job, [piece])
    forget_requests(tmp_path, [4])
    assert [file.name for file in (tmp_path / "run" / "ranks").iterdir()] == ["4.json"]
    assert (tmp_path / "run" / "ranks" / "4.json").stat().st_mode & 0o777 == 0o600
    placement = LocalPlacement()
    with closing(placement):
        placer = RankPlacer(tmp_path, placement)
        placer.tick()
        [end] = placement.ended(120.0)
        assert end.error is not None
        assert "no order for a rank" in end.error
        assert placer.note(end.key, end.error)
        assert not placer.note("player-1", "it died")
        assert ends_of_ranks(tmp_path, 4) == [f"{piece.key}: {end.error}"]
        placer.tick()
        assert placement.standing() == []  # it is not started again: its job is
    withdraw_ranks(tmp_path, 4)
    assert ends_of_ranks(tmp_path, 4) == []


def test_a_sharded_job_of_one_rank_fails_with_a_sentence(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "model")
    config = Config(model=str(tmp_path / "model"))
    with create_store(tmp_path / "home") as store:
        job = queue(store, updates=1, sharded=True)
        with pytest.raises(ValueError, match="sharded=true needs a job of several ranks"):
            run_job(store.home, config, job, Stop())
        assert get_job(store, job).state == "failed"
