"""The keepers of an actor and of jobs: what they start again, try again and give up."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.agent.stand_ins import ADD, PATIENCE_S, Place, deaths, plays

from perdure.agent.commands.status import report
from perdure.agent.config import Config
from perdure.agent.config_file import LoadedConfig
from perdure.agent.supervision.abandoned_work import KEPT
from perdure.agent.supervision.keepers import JobKeeper, StandingKeeper
from perdure.agent.supervision.limits import Limits, Outcome
from perdure.agent.supervision.supervisor import Programs, supervising
from perdure.memory.contracts.orders import Job, LearnOrder
from perdure.memory.environments import register
from perdure.memory.jobs import add_job, get_job
from perdure.memory.leases import ATTEMPT_CAP
from perdure.memory.processes import beat, events, processes
from perdure.memory.stages import list_stages
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.tasks import add_tasks, counts, list_tasks

pytestmark = pytest.mark.processes


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    with create_store(place.home) as store:
        register(store, ADD)
        yield store


# --- the actor ---


def test_an_actor_that_keeps_dying_is_given_up_and_status_says_why(place: Place) -> None:
    ended = place.supervise(place.actor("raise ValueError('no luck')"), supervise={"tries": 3})
    why = "the actor is given up after 3 deaths in a row; the last: crashed: it ended with exit code 1: ValueError: no luck"
    assert ended == Outcome(code=3, reason=why)
    with open_store(place.home) as store:
        told = "crashed: it ended with exit code 1: ValueError: no luck; it "
        assert deaths(store) == [f"{told}starts again in 0.5 s", f"{told}starts again in 1 s", f"{told}is given up"]
    found = place.status()
    assert found["state"] == "stopped"
    assert why in found["idle_reason"]
    assert found["last_death"]["subject"] == "actor"
    assert found["last_death"]["message"].endswith("it is given up")


def test_an_actor_that_hangs_is_ended_and_started_again(place: Place) -> None:
    flag = place.path / "flag"
    body = f"flag = Path({str(flag)!r})\n    if flag.exists():\n        play(store, pulse)\n    flag.touch()\n    hang(store, pulse)"
    ended = place.supervise(place.actor(body), until=lambda store: plays(store) and bool(deaths(store)), supervise={"hang_s": 2})
    assert ended == Outcome(code=0, reason="stopped by a signal")
    with open_store(place.home) as store:
        (death,) = deaths(store)
    assert death.startswith("hung: it was ended by SIGABRT: Fatal Python error: Aborted (File ")
    assert death.endswith("in hang); it starts again in 0.5 s")


def die(keeper: StandingKeeper) -> None:
    """Until the next actor has died."""
    before, deadline = keeper.death, time.monotonic() + PATIENCE_S
    keeper.death = ""
    while not keeper.death:
        keeper.tick(wanted=True)
        assert time.monotonic() < deadline, before
        time.sleep(0.02)


def test_a_full_disk_spends_no_attempts_and_gives_up_no_process(place: Place, store: Store) -> None:
    add_tasks(store, ADD, [1, 2, 3], 1, "stream")
    program = place.actor("take_tasks(store); raise Unavailable('the disk is full')")
    keeper = StandingKeeper(store, "actor", program, ["--home", str(place.home)], 60.0, 1)
    for _ in range(2):
        die(keeper)
        assert keeper.death == "unavailable: it ended with exit code 4: the disk is full"
        assert counts(store) == {"queued": 3, "running": 0, "done": 0, "failed": 0}
    assert [row["spent"] for row in store.rows("SELECT spent FROM task")] == [0, 0, 0]
    assert keeper.deaths == 0

    place.actor("take_tasks(store); raise ValueError('not the disk')")
    die(keeper)
    assert keeper.deaths == 1
    assert counts(store) == {"queued": 3, "running": 0, "done": 0, "failed": 0}
    assert [row["spent"] for row in store.rows("SELECT spent FROM task ORDER BY id")] == [1, 1, 0]
    why = f"the process that played it died, {keeper.death}"
    assert keeper.death.endswith("ValueError: not the disk")
    assert [entry.task.error for entry in reversed(list_tasks(store))] == [why, why, None]


def test_an_actor_that_may_not_play_is_told_to_end_which_is_no_death(place: Place, store: Store) -> None:
    keeper = StandingKeeper(store, "actor", place.actor("take_tasks(store); play(store, pulse)"), ["--home", str(place.home)], 60.0, 1)
    add_tasks(store, ADD, [1, 2, 3], 1, "stream")
    deadline = time.monotonic() + PATIENCE_S
    while counts(store)["running"] < 2 and time.monotonic() < deadline:
        keeper.tick(wanted=True)
        time.sleep(0.02)
    while keeper.watched is not None and time.monotonic() < deadline:
        keeper.tick(wanted=False)
        time.sleep(0.02)
    keeper.tick(wanted=False)
    assert keeper.watched is None
    assert (keeper.deaths, keeper.death, deaths(store)) == (0, "", [])
    assert {entry.task.state for entry in list_tasks(store)} == {"queued"}


# --- jobs ---


def see_through(store: Store, keeper: JobKeeper, ends: int = 99) -> Job:
    """Keep a process at a job until the job has ended, or until its process has ended `ends` times."""
    job_id = add_job(store, "a", [ADD], LearnOrder(learner="grpo"))
    deadline = time.monotonic() + PATIENCE_S
    while (job := get_job(store, job_id)).state not in ("done", "failed") and ends:
        if keeper.watched is None:
            keeper.start(job)
        ends -= keeper.poll() is not None
        assert time.monotonic() < deadline, job
        time.sleep(0.02)
    while keeper.watched is not None:
        keeper.poll()
        time.sleep(0.02)
    return get_job(store, job_id)


@pytest.mark.parametrize(
    ("body", "attempts", "error"),
    [
        ("os.kill(os.getpid(), 9)", ATTEMPT_CAP, "its process died, killed: it was ended by SIGKILL"),
        ("raise MemoryError", ATTEMPT_CAP, "its process died, out of memory: it ended with exit code 5: MemoryError"),
        ("raise ValueError('x')", 1, "its process died, crashed: it ended with exit code 1: ValueError: x"),
        ("os.kill(os.getpid(), 11)", 1, "its process died, crashed: it was ended by SIGSEGV: Fatal Python error: Segmentation fault"),
    ],
    ids=["killed", "out of memory", "crashed", "crashed in C"],
)
def test_a_job_is_tried_again_if_its_death_was_not_its_fault(place: Place, store: Store, body: str, attempts: int, error: str) -> None:
    job = see_through(store, JobKeeper(store, place.learner(body), ["--home", str(place.home)], 60.0))
    assert job.state == "failed"
    assert (job.attempt, job.error is not None and job.error.startswith(error)) == (attempts, True), job.error
    states = ["queued"] * (attempts - 1) + ["failed"]
    assert [message.rpartition("; ")[2] for message in deaths(store)] == [f"job {job.id} is {state}" for state in states]


def test_a_job_that_its_process_gave_back_costs_no_attempt(place: Place, store: Store) -> None:
    keeper = JobKeeper(store, place.learner("release_job(store, lease)"), ["--home", str(place.home)], 60.0)
    job = see_through(store, keeper, ends=2)
    assert (job.state, job.attempt, store.rows("SELECT spent FROM job")[0]["spent"]) == ("queued", 2, 0)
    assert deaths(store) == []


def test_a_process_that_dies_before_it_has_its_job_uses_up_an_attempt(place: Place, store: Store) -> None:
    (place.path / "a_learner.py").write_text("import os\nos.kill(os.getpid(), 9)")
    job = see_through(store, JobKeeper(store, "a_learner", ["--home", str(place.home)], 60.0))
    assert (job.state, store.rows("SELECT spent FROM job")[0]["spent"]) == ("failed", ATTEMPT_CAP)


def test_only_the_last_processes_of_jobs_are_remembered(place: Place, store: Store) -> None:
    for n in range(100, 100 + KEPT + 5):
        beat(store, f"learner-{n}", n, "done")
        (place.home / "logs" / f"learner-{n}.log").write_text("x")
    (place.home / "logs" / "learner-100.log.1").write_text("x")
    (place.home / "logs" / "actor.log").write_text("x")
    beat(store, "actor", 1, "playing")
    learner = place.learner("finish_job(store, lease, NOT_GATED, None)")
    job = see_through(store, JobKeeper(store, learner, ["--home", str(place.home)], 60.0))
    assert job.state == "done"
    names = {process.name for process in processes(store)}
    assert names == {"actor", *(f"learner-{n}" for n in range(105, 125))}
    logs = {log.name for log in (place.home / "logs").iterdir()}
    assert logs == {"actor.log", *(f"learner-{n}.log" for n in range(105, 125))}


def test_learning_that_keeps_failing_is_given_up_and_play_goes_on(place: Place, store: Store) -> None:
    for key in "abc":
        add_job(store, key, [ADD], LearnOrder(learner="grpo"))

    def given_up(store: Store) -> bool:
        return plays(store) and "learning is given up after 3 jobs" in str(report(store).idle_reason)

    learner = place.learner("raise ValueError('x')")
    ended = place.supervise(place.actor("play(store, pulse)"), learner, until=given_up, supervise={"tries": 3})
    assert ended.code == 0
    assert [event.subject for event in events(store) if event.kind == "given up"] == ["learning"]
    assert [message.rpartition("; ")[2] for message in deaths(store)] == [f"job {n} is failed" for n in (1, 2, 3)]


# --- one job, without a daemon ---


def test_a_supervisor_without_an_actor_runs_its_job_and_nothing_else(place: Place, store: Store) -> None:
    first, second = (add_job(store, key, [ADD], LearnOrder(learner="grpo")) for key in "ab")
    body = "if job.attempt == 1: os.kill(os.getpid(), 9)\n        finish_job(store, lease, NOT_GATED, None)"
    programs = Programs(actor=None, learner=place.learner(body))
    config = Config.model_validate({"stream": {"environments": [ADD]}})
    with supervising(place.home, LoadedConfig(config=config, origins={}, path=None), Limits(job=second), programs) as supervisor:
        assert supervisor.run() == Outcome(code=0, reason=f"job {second} has ended")
    assert (get_job(store, second).state, get_job(store, second).attempt) == ("done", 2)
    assert (get_job(store, first).state, get_job(store, first).attempt) == ("queued", 0)
    assert deaths(store) == [f"killed: it was ended by SIGKILL; job {second} is queued"]
    assert {event.kind for event in events(store)} == {"death"}, "it does not report as a daemon does"
    assert "supervisor" not in {process.name for process in processes(store)}
    assert list_stages(store) == []
    assert sum(counts(store).values()) == 0
