"""Jobs in a home of a study: a fault of the machine is tried again, a result is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.studies.grid.small_grids import COIN
from tests.tiny_models import tiny_llama

from perdure.agent.config import Config
from perdure.agent.studies.grid.study_home import StudyHome, know, open_study_home, play_live
from perdure.agent.studies.grid.study_jobs import DIVERGED, NothingLearned, learn, score_panel
from perdure.memory.contracts.orders import NOTHING_TO_LEARN, LearnOrder, PanelOrder
from perdure.memory.jobs import add_job, fail_job, get_job, lease_job, set_job_state
from perdure.memory.leases import ATTEMPT_CAP, TTL_S, BootClock
from perdure.memory.versions import INITIAL

pytestmark = [pytest.mark.processes, pytest.mark.learning]
OPTIONS = {"updates": 1, "prompts": 2, "samples": 4, "rank": 2, "check_every": 0, "from": "fresh"}
ORDER = LearnOrder(learner="grpo", options=OPTIONS, gate=False, start=INITIAL)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    model = str(tiny_llama(tmp_path / "model"))
    return Config.model_validate({"model": model, "sandbox": {"trusted": [COIN]}, "play": {"members": 4}})


@pytest.fixture
def home(tmp_path: Path, config: Config) -> Iterator[StudyHome]:
    with open_study_home(tmp_path / "home", config, 0, print) as opened:
        know(opened, [COIN])
        yield opened


def fail(home: StudyHome, job: int, error: str) -> None:
    leased = lease_job(home.store, "a process", TTL_S, BootClock(), job)
    assert leased is not None
    fail_job(home.store, leased[1], error)


def test_a_panel_that_failed_is_scored_again(home: StudyHome) -> None:
    order = PanelOrder(version=INITIAL, asked="choice")
    job = add_job(home.store, f"panel of {INITIAL}, choice", (), order)
    fail(home, job, "CUDA error: out of luck")
    rows = score_panel(home, INITIAL, "choice")
    assert get_job(home.store, job).state == "done"
    assert {row.measure for row in rows} == {"choice", "confidence", "cross_entropy"}


@pytest.mark.parametrize("error", [f"{NOTHING_TO_LEARN} in {COIN}: all succeeded", f"{DIVERGED}: the gradient is not finite"])
def test_what_a_learning_job_came_to_is_not_tried_again(home: StudyHome, error: str) -> None:
    job = add_job(home.store, "run", (COIN,), ORDER)
    fail(home, job, error)
    with pytest.raises(NothingLearned, match=error[:20]):
        learn(home, "run", (COIN,), ORDER)
    assert get_job(home.store, job).state == "failed"


def test_a_learning_job_that_failed_of_something_else_is_tried_again(home: StudyHome) -> None:
    job = add_job(home.store, "run", (COIN,), ORDER)
    fail(home, job, "ZeroDivisionError")
    assert learn(home, "run", (COIN,), ORDER).state == "done"


def test_ctrl_c_spends_no_attempt_of_a_job_or_task(tmp_path: Path, config: Config) -> None:
    """A process that is ended in the middle leaves its leases; however often that happens, the next one goes on."""
    for _ in range(ATTEMPT_CAP + 1):
        with open_study_home(tmp_path / "home", config, 0, print) as home:
            know(home, [COIN])
            leased = lease_job(home.store, "a process", TTL_S, BootClock(), add_job(home.store, "run", (COIN,), ORDER))
            assert leased is not None
            set_job_state(home.store, leased[1], "running")
    with open_study_home(tmp_path / "home", config, 0, print) as home:
        play_live(home, COIN, 1, "before", 0)
        assert learn(home, "run", (COIN,), ORDER).attempt == ATTEMPT_CAP + 2
