"""A whole daemon without a model: it ends in time, waits for room on the disk, talks to systemd, and tells how it ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.conftest import Call
from tests.agent.stand_ins import ADD, Place, deaths, plays

from perdure.agent.commands.status import report
from perdure.agent.supervision.keepers import GRACE_S
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.environments import list_environments, register
from perdure.memory.jobs import add_job, get_job
from perdure.memory.processes import events, processes
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.tasks import add_tasks, counts, list_tasks

pytestmark = pytest.mark.processes

COMPARE = "perdure:compare"

STAGES = [
    {"name": "first", "environments": [ADD], "tasks": 3},
    {"name": "second", "environments": [{"name": COMPARE, "tasks": 2}], "members": 2},
]


# --- a stream that ends ---


def test_a_daemon_whose_stream_has_ended_is_idle_and_plays_tasks_that_are_added(place: Place) -> None:
    known: list[list[str]] = []

    def asked_and_idle(store: Store) -> bool:
        found = report(store)
        if found.stream.stage == "first":
            known.append([one.name for one in list_environments(store)])
        if "the stream has ended" in str(found.idle_reason) and sum(found.tasks.values()) == 5:
            add_tasks(store, ADD, [1], 1, "person")
        return found.tasks["done"] == 6 and "the stream has ended" in str(found.idle_reason)

    ended = place.supervise(
        place.actor("finish_tasks(store, pulse)"), until=asked_and_idle, stream={"stages": STAGES, "tasks_per_round": 1}
    )
    assert (ended.code, ended.reason) == (0, "stopped by a signal")
    with open_store(place.home) as store:
        found = [(entry.stage, entry.task.environment, entry.task.members) for entry in list_tasks(store)[::-1]]
        assert [one.name for one in list_environments(store)] == [ADD, COMPARE]
    assert found == [("first", ADD, 8)] * 3 + [("second", COMPARE, 2)] * 2 + [(None, ADD, 1)]
    assert all(names == [ADD] for names in known), "a stage that has not begun is not known to learning and to the gate"
    assert place.status()["stream"]["stages"][1]["environments"][COMPARE] == {
        "weight": 1.0,
        "tasks": 2,
        "drawn": 2,
        "queued": 0,
        "ended": 2,
    }


def test_a_run_that_waits_for_more_tasks_than_the_stream_has_ends_and_says_so(place: Place) -> None:
    ended = place.supervise(place.actor("finish_tasks(store, pulse)"), tasks=9, stream={"stages": STAGES})
    assert (ended.code, ended.reason) == (1, "the stream ended before 9 tasks, after 0 verdicts")
    ended = place.supervise(
        place.actor("finish_tasks(store, pulse)"), tasks=2, stream={"stages": [*STAGES, {**STAGES[0], "name": "third"}]}
    )
    assert (ended.code, ended.reason) == (0, "2 tasks played")
    assert place.status()["stream"]["stage"] == "third"


# --- stopping ---


def test_a_child_that_hangs_in_c_does_not_keep_the_daemon_from_ending_in_time(place: Place) -> None:
    daemon = place.daemon(place.actor("take_tasks(store); hang(store, pulse)"))
    place.wait("an actor that hangs", lambda store: plays(store) and counts(store)["running"])
    began = time.monotonic()
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(timeout=30) == 0
    assert 3 < time.monotonic() - began < 25
    with open_store(place.home) as store:
        assert counts(store)["running"] == 0
        assert {row["spent"] for row in store.rows("SELECT spent FROM task")} == {0}


def test_a_second_signal_ends_a_daemon_at_once(place: Place) -> None:
    daemon = place.daemon(place.actor("hang(store, pulse)"))
    place.wait("an actor that hangs", plays)
    daemon.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert daemon.poll() is None
    began = time.monotonic()
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(timeout=30) == 0
    assert time.monotonic() - began < GRACE_S - 1


def test_two_signals_that_come_together_end_a_daemon_at_once(place: Place) -> None:
    """Both are there before the daemon begins to stop."""
    daemon = place.daemon(place.actor("hang(store, pulse)"))
    place.wait("an actor that hangs", plays)
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        daemon.send_signal(number)
    began = time.monotonic()
    assert daemon.wait(timeout=30) == 0
    assert time.monotonic() - began < GRACE_S


def test_a_locked_store_does_not_keep_a_daemon_from_ending_in_time(place: Place) -> None:
    daemon = place.daemon(place.actor("hang(store, pulse)"))
    place.wait("an actor", plays)
    with open_store(place.home) as store, store.write():
        began = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=30) == 0
        assert time.monotonic() - began < 25


# --- room ---


def test_a_budget_that_is_used_up_stops_play_and_says_so(place: Place) -> None:
    def paused(store: Store) -> bool:
        return report(store).state == "paused"

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


def test_learning_and_then_play_wait_for_room_and_go_on_by_themselves(place: Place, small_disk: Path) -> None:
    place.daemon(place.actor("play(store, pulse)"), "[disk]\nfloor_gib = 0.008\n")  # 8 MiB; learning below 16
    place.wait("play", plays)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(20 * 2**20))
    place.wait("learning that waits", lambda store: "learning waits for room" in str(report(store).idle_reason))
    with open_store(place.home) as store:
        assert plays(store)
        job = add_job(store, "a", [ADD], LearnOrder(learner="grpo"))
    place.wait("its reason", lambda store: f"job {job}: learning waits for room" in str(report(store).idle_reason))
    with ballast.open("ab") as more:
        more.write(bytes(5 * 2**20))
    place.wait("play that waits", lambda store: report(store).state == "paused")
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
        time.sleep(2.5)  # until progress from before is reported
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


def test_a_second_daemon_is_refused_and_what_a_killed_one_left_is_played_by_the_next(place: Place, process: Call) -> None:
    daemon = place.daemon(place.actor("take_tasks(store); play(store, pulse)"))
    place.wait("tasks in play", lambda store: plays(store) and counts(store)["running"])
    refused = process("--home", str(place.home), "run")
    assert (refused.code, str(daemon.pid) in refused.err) == (2, True), refused.err

    daemon.kill()
    daemon.wait()
    found = place.status()
    assert found["state"] == "stopped"
    assert found["idle_reason"].endswith("the last one ended: without giving a reason")
    assert json.dumps(found)

    ended = place.supervise(place.actor("finish_tasks(store, pulse)"), tasks=6)
    assert (ended.code, ended.reason) == (0, "6 tasks played")
    with open_store(place.home) as store:
        assert counts(store)["running"] == counts(store)["failed"] == 0


def test_a_daemon_that_is_told_to_stop_lets_its_learner_give_its_job_back(place: Place) -> None:
    with create_store(place.home) as store:
        register(store, ADD)
        job = add_job(store, "a", [ADD], LearnOrder(learner="grpo"))
    gives_back = "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(release_job(store, lease))); time.sleep(60)"
    ended = place.supervise(
        place.actor("play(store, pulse)"),
        place.learner(f"set_job_state(store, lease, 'running'); {gives_back}"),
        until=lambda store: get_job(store, job).state == "running",
    )
    assert (ended.code, ended.reason) == (0, "stopped by a signal")
    with open_store(place.home) as store:
        assert (get_job(store, job).state, store.rows("SELECT spent FROM job")[0]["spent"]) == ("queued", 0)
        assert deaths(store) == []
