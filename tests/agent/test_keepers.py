"""The supervisor with programs that are real processes and do one thing each: play, die, hang, stay deaf. No model is loaded."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from perdure.agent.commands.status import report
from perdure.agent.config import Config, LoadedConfig
from perdure.agent.keepers import ActorKeeper, JobKeeper
from perdure.agent.limits import Limits, Outcome
from perdure.agent.supervisor import Programs, supervising
from perdure.agent.work import KEPT
from perdure.memory.environments import register
from perdure.memory.errors import PerdureError
from perdure.memory.jobs import add_job, get_job
from perdure.memory.leases import ATTEMPT_CAP
from perdure.memory.processes import beat, events, processes
from perdure.memory.records import Job
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.tasks import add_tasks, counts, list_tasks

ADD = "perdure:add"
PATIENCE_S = 30.0

ACTOR = """
import ctypes, os, signal, sys, time
from pathlib import Path
from perdure.agent.causes import die_of
from perdure.agent.watch import Pulse
from perdure.memory.errors import Unavailable
from perdure.memory.leases import BootClock
from perdure.memory.store import open_store
from perdure.memory.tasks import lease_tasks

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it does not outlive its parent

def play(store, pulse):
    n = 0
    while True:
        pulse.say("playing", str(n := n + 1))
        time.sleep(0.2)

def hang(store, pulse):
    pulse.say("playing", "for the last time")
    lock, lib = ctypes.create_string_buffer(64), ctypes.PyDLL(None)  # holds Python's global lock: no handler runs any more
    while True:
        lib.pthread_mutex_lock(lock)

def take_tasks(store):
    while not lease_tasks(store, f"actor:{os.getpid()}", 2, 60.0, BootClock()):
        time.sleep(0.05)

def run(store, pulse):
    BODY

with open_store(Path(sys.argv[sys.argv.index("--home") + 1])) as store:
    try:
        run(store, Pulse(store, "actor"))
    except Exception as error:
        die_of(error)
"""

LEARNER = """
import os, sys, time
from pathlib import Path
from perdure.agent.causes import die_of
from perdure.memory.jobs import finish_job, lease_job, release_job
from perdure.memory.leases import BootClock
from perdure.memory.store import open_store

given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open_store(Path(given["--home"])) as store:
    job, lease = lease_job(store, f"learner-{given['--job']}:{os.getpid()}", 60.0, BootClock(), int(given["--job"]))
    try:
        BODY
    except Exception as error:
        die_of(error)
"""

DAEMON = """
import sys
from pathlib import Path
from perdure.agent.config import load_config
from perdure.agent.limits import Limits
from perdure.agent.supervisor import Programs, supervising
with supervising(Path("home"), load_config(Path("perdure.toml")), Limits(), Programs(actor="an_actor")) as supervisor:
    sys.exit(supervisor.run().code)
"""


@dataclass
class Place:
    """A folder with a home, programs that its children can be, and the daemons that run there."""

    path: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.path / "home"

    def actor(self, body: str) -> str:
        (self.path / "an_actor.py").write_text(ACTOR.replace("BODY", body))
        return "an_actor"

    def learner(self, body: str) -> str:
        (self.path / "a_learner.py").write_text(LEARNER.replace("BODY", body))
        return "a_learner"

    def supervise(self, actor: str, learner: str = "none", *, until: Callable[[Store], bool] | None = None, **settings: Any) -> Outcome:
        """Run a supervisor in this process until it ends by itself, or until the store is so."""
        config = Config.model_validate({"stream": {"environments": [ADD], "tasks_per_round": 1}, **settings})
        loaded = LoadedConfig(config=config, origins={}, path=None)
        ended = threading.Event()
        programs = Programs(actor=actor, learner=learner)
        with supervising(self.home, loaded, Limits(tries=config.supervise.tries), programs) as supervisor:
            thread = threading.Thread(target=_stop_when, args=(self.home, until or (lambda store: False), ended))
            thread.start()
            try:
                return supervisor.run()
            finally:
                ended.set()
                thread.join()

    def daemon(self, actor: str, settings: str = "", **environment: str) -> subprocess.Popen[bytes]:
        (self.path / "perdure.toml").write_text(f"[stream]\nenvironments = ['{ADD}']\n{settings}")
        process = subprocess.Popen(
            [sys.executable, "-c", DAEMON], cwd=self.path, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
        )
        self.started.append(process)
        return process

    def status(self) -> dict[str, Any]:
        with open_store(self.home) as store:
            return report(store)

    def wait(self, what: str, condition: Callable[[Store], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if _holds(self.home, condition):
                return
            time.sleep(0.05)
        with open_store(self.home) as store:
            pytest.fail(f"waited for {what}; {report(store)}; {[event.as_json() for event in events(store)]}")


def _holds(home: Path, condition: Callable[[Store], object]) -> bool:
    try:
        with open_store(home) as store:
            return bool(condition(store))
    except PerdureError:  # it is being made
        return False


def _stop_when(home: Path, condition: Callable[[Store], bool], ended: threading.Event) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ended.wait(0.05):
        if _holds(home, condition) or time.monotonic() > deadline:
            os.kill(os.getpid(), signal.SIGTERM)
            return


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))))
    place = Place(tmp_path)
    try:
        yield place
    finally:
        for process in place.started:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=30)


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    with create_store(place.home) as store:
        register(store, ADD, 1.0, 0.0, 1.0)
        yield store


def deaths(store: Store) -> list[str]:
    return [event.message for event in reversed(events(store)) if event.kind == "death"]


def plays(store: Store) -> bool:
    return any(process.name == "supervisor" and process.state == "playing" for process in processes(store))


# --- the actor ---


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_actor_that_hangs_is_ended_and_started_again(place: Place) -> None:
    flag = place.path / "flag"
    body = f"flag = Path({str(flag)!r})\n    if flag.exists():\n        play(store, pulse)\n    flag.touch()\n    hang(store, pulse)"
    ended = place.supervise(place.actor(body), until=lambda store: plays(store) and bool(deaths(store)), supervise={"hang_s": 2})
    assert ended == Outcome(code=0, reason="stopped by a signal")
    with open_store(place.home) as store:
        (death,) = deaths(store)
    assert death.startswith("hung: it was ended by SIGABRT: Fatal Python error: Aborted (File ")
    assert death.endswith("in hang); it starts again in 0.5 s")


def die(keeper: ActorKeeper) -> None:
    """Until the next actor has died."""
    before, deadline = keeper.death, time.monotonic() + PATIENCE_S
    keeper.death = ""
    while not keeper.death:
        keeper.tick(may_play=True)
        assert time.monotonic() < deadline, before
        time.sleep(0.02)


@pytest.mark.slow
def test_a_full_disk_spends_no_attempts_and_gives_nobody_up(place: Place, store: Store) -> None:
    add_tasks(store, ADD, [1, 2, 3], 1, "stream")
    program = place.actor("take_tasks(store); raise Unavailable('the disk is full')")
    keeper = ActorKeeper(store, program, ["--home", str(place.home)], 60.0, 1)
    for _ in range(2):
        die(keeper)
        assert keeper.death == "unavailable: it ended with exit code 4: the disk is full"
        assert counts(store) == {"queued": 3, "running": 0, "done": 0, "failed": 0}
    assert [row["spent"] for row in store.rows("SELECT spent FROM task")] == [0, 0, 0]
    assert keeper.deaths == 0

    place.actor("take_tasks(store); raise ValueError('not the disk')")
    die(keeper)
    assert keeper.deaths == 1
    assert counts(store)["running"] == 2, "whoever asks next takes them over, and that counts"


def test_an_actor_that_may_not_play_is_told_to_end_which_is_no_death(place: Place, store: Store) -> None:
    keeper = ActorKeeper(store, place.actor("take_tasks(store); play(store, pulse)"), ["--home", str(place.home)], 60.0, 1)
    add_tasks(store, ADD, [1, 2, 3], 1, "stream")
    deadline = time.monotonic() + PATIENCE_S
    while counts(store)["running"] < 2 and time.monotonic() < deadline:
        keeper.tick(may_play=True)
        time.sleep(0.02)
    while keeper.watched is not None and time.monotonic() < deadline:
        keeper.tick(may_play=False)
        time.sleep(0.02)
    keeper.tick(may_play=False)
    assert keeper.watched is None
    assert (keeper.deaths, keeper.death, deaths(store)) == (0, "", [])
    assert {entry.task.state for entry in list_tasks(store)} == {"queued"}


# --- jobs ---


def see_through(store: Store, keeper: JobKeeper, ends: int = 99) -> Job:
    """Until the job has ended, or its process so many times."""
    job_id = add_job(store, "a", "learn", "grpo", [ADD], {})
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


@pytest.mark.slow
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
def test_a_job_is_tried_again_where_its_death_says_nothing_about_it(
    place: Place, store: Store, body: str, attempts: int, error: str
) -> None:
    job = see_through(store, JobKeeper(store, place.learner(body), ["--home", str(place.home)], 60.0))
    assert job.state == "failed"
    assert (job.attempt, job.error is not None and job.error.startswith(error)) == (attempts, True), job.error
    states = ["queued"] * (attempts - 1) + ["failed"]
    assert [message.rpartition("; ")[2] for message in deaths(store)] == [f"job {job.id} is {state}" for state in states]


@pytest.mark.slow
def test_a_job_that_its_process_gave_back_costs_no_attempt(place: Place, store: Store) -> None:
    keeper = JobKeeper(store, place.learner("release_job(store, lease)"), ["--home", str(place.home)], 60.0)
    job = see_through(store, keeper, ends=2)
    assert (job.state, job.attempt, store.rows("SELECT spent FROM job")[0]["spent"]) == ("queued", 2, 0)
    assert deaths(store) == []


@pytest.mark.slow
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
    job = see_through(store, JobKeeper(store, place.learner("finish_job(store, lease, {}, None)"), ["--home", str(place.home)], 60.0))
    assert job.state == "done"
    names = {process.name for process in processes(store)}
    assert names == {"actor", *(f"learner-{n}" for n in range(105, 125))}
    logs = {log.name for log in (place.home / "logs").iterdir()}
    assert logs == {"actor.log", *(f"learner-{n}.log" for n in range(105, 125))}


@pytest.mark.slow
def test_learning_that_keeps_failing_is_given_up_and_play_goes_on(place: Place, store: Store) -> None:
    for key in "abc":
        add_job(store, key, "learn", "grpo", [ADD], {})

    def given_up(store: Store) -> bool:
        return plays(store) and "learning is given up after 3 jobs" in str(report(store)["idle_reason"])

    learner = place.learner("raise ValueError('x')")
    ended = place.supervise(place.actor("play(store, pulse)"), learner, until=given_up, supervise={"tries": 3})
    assert ended.code == 0
    assert [event.subject for event in events(store) if event.kind == "given up"] == ["learning"]
    assert [message.rpartition("; ")[2] for message in deaths(store)] == [f"job {n} is failed" for n in (1, 2, 3)]


# --- stopping ---


@pytest.mark.slow
def test_a_child_that_hangs_in_c_does_not_keep_the_daemon_from_ending_in_time(place: Place) -> None:
    daemon = place.daemon(place.actor("take_tasks(store); hang(store, pulse)"))
    place.wait("an actor that hangs", lambda store: plays(store) and counts(store)["running"])
    began = time.monotonic()
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(timeout=30) == 0
    assert 3 < time.monotonic() - began < 10
    with open_store(place.home) as store:
        assert counts(store)["running"] == 0
        assert {row["spent"] for row in store.rows("SELECT spent FROM task")} == {0}


@pytest.mark.slow
def test_a_second_signal_ends_a_daemon_at_once(place: Place) -> None:
    daemon = place.daemon(place.actor("hang(store, pulse)"))
    place.wait("an actor that hangs", plays)
    daemon.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert daemon.poll() is None
    began = time.monotonic()
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(timeout=30) == 0
    assert time.monotonic() - began < 2


@pytest.mark.slow
def test_a_locked_store_does_not_keep_a_daemon_from_ending_in_time(place: Place) -> None:
    daemon = place.daemon(place.actor("hang(store, pulse)"))
    place.wait("an actor", plays)
    with open_store(place.home) as store, store.write():
        began = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=30) == 0
        assert time.monotonic() - began < 10


# --- room ---


@pytest.mark.slow
def test_a_budget_that_is_used_up_stops_play_and_says_so(place: Place) -> None:
    def paused(store: Store) -> bool:
        return report(store)["state"] == "paused"

    place.supervise(place.actor("play(store, pulse)"), until=paused, disk={"budget_gib": 1e-6, "floor_gib": 0.0})
    with open_store(place.home) as store:
        told = [(event.subject, event.message) for event in reversed(events(store)) if event.kind == "disk"]
        assert [subject for subject, _ in told] == ["learning", "play"]
        assert all(message.startswith("it waits for room: the home takes ") for _, message in told)
        (said,) = processes(store)
        assert said.name == "supervisor", "no actor was started"


@pytest.fixture
def small_disk(place: Place) -> Iterator[Path]:
    """The home on a disk of 32 MiB."""
    place.home.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(place.home)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield place.home
    finally:
        for process in place.started:
            process.terminate()
            process.wait(timeout=30)
        subprocess.run(["umount", "--lazy", str(place.home)], check=True)


@pytest.mark.slow
def test_learning_and_then_play_wait_for_room_and_go_on_by_themselves(place: Place, small_disk: Path) -> None:
    place.daemon(place.actor("play(store, pulse)"), "[disk]\nfloor_gib = 0.008\n")  # 8 MiB; learning below 16
    place.wait("play", plays)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(20 * 2**20))
    place.wait("learning that waits", lambda store: "learning waits for room" in str(report(store)["idle_reason"]))
    with open_store(place.home) as store:
        assert plays(store)
        job = add_job(store, "a", "learn", "grpo", [ADD], {})
    place.wait("its reason", lambda store: f"job {job} waits for room" in str(report(store)["idle_reason"]))
    with ballast.open("ab") as more:
        more.write(bytes(5 * 2**20))
    place.wait("play that waits", lambda store: report(store)["state"] == "paused")
    assert "play and learning wait for room" in place.status()["idle_reason"]
    with open_store(place.home) as store, store.write() as conn:
        conn.execute("DELETE FROM job")
    ballast.unlink()
    place.wait("play again", plays)
    with open_store(place.home) as store:
        told = [(event.subject, event.message.partition(":")[0]) for event in reversed(events(store)) if event.kind == "disk"]
        assert deaths(store) == []
    waits, room = "it waits for room", "there is room again"
    assert sorted(told[:2]) == [("learning", waits), ("play", waits)]
    assert sorted(told[2:]) == [("learning", room), ("play", room)]


# --- systemd ---


@pytest.mark.slow
def test_systemd_hears_of_readiness_and_of_progress_only(place: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place.path / "notify"))
        manager.settimeout(10.0)

        def next_but_status() -> str:
            while (message := manager.recv(4096).decode()).startswith("STATUS="):
                assert message != "STATUS="
            return message

        place.daemon(
            place.actor("time.sleep(1); play(store, pulse)"), NOTIFY_SOCKET=str(place.path / "notify"), WATCHDOG_USEC=str(5_000_000)
        )
        while (said := next_but_status()) == "WATCHDOG=1":
            pass
        assert said == "READY=1"
        with open_store(place.home) as store:
            assert plays(store) or any(process.name == "actor" for process in processes(store))
            (actor,) = [process.pid for process in processes(store) if process.name == "actor"]
            assert "make the first one longer" in next(event.message for event in events(store) if event.kind == "warning")
        assert [next_but_status() for _ in range(2)] == ["WATCHDOG=1"] * 2

        os.kill(actor, signal.SIGSTOP)
        time.sleep(2.5)  # what went on before is told still
        manager.setblocking(False)
        try:
            while True:
                manager.recv(4096)
        except BlockingIOError:
            manager.settimeout(10.0)
        heard = [manager.recv(4096).decode() for _ in range(2)]
        assert all(message.startswith("STATUS=playing") for message in heard)

        os.kill(actor, signal.SIGCONT)
        assert next_but_status() == "WATCHDOG=1"
        place.started[0].send_signal(signal.SIGTERM)
        while (said := next_but_status()) == "WATCHDOG=1":
            pass
        assert said == "STOPPING=1"
        assert place.started[0].wait(timeout=30) == 0


@pytest.mark.slow
def test_status_says_that_a_daemon_was_killed(place: Place) -> None:
    daemon = place.daemon(place.actor("play(store, pulse)"))
    place.wait("an actor", plays)
    daemon.kill()
    daemon.wait()
    found = place.status()
    assert found["state"] == "stopped"
    assert found["idle_reason"].endswith("how the last one ended: without a word")
    assert json.dumps(found)
