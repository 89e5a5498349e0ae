"""Commands of the first week of a service: jobs, pauses, retired environments, the health check, and the limits of a container."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.agent.conftest import ADD, Call

from perdure.agent.commands.status import fitting
from perdure.agent.control_groups import cpu_quota, memory_limit_bytes, usable_cores
from perdure.agent.home import HomeLock
from perdure.memory.contracts.orders import GateOrder, LearnOrder
from perdure.memory.environments import anchor_of, environments_in_use
from perdure.memory.jobs import add_job, get_job
from perdure.memory.processes import CONFINED, CONFINEMENT, Alarm, beat, events, record_event, set_alarms
from perdure.memory.store import open_store
from perdure.memory.tasks import counts

ORDER = LearnOrder(learner="grpo", options={}, profile="standard")


# --- jobs ---


def test_found_jobs_are_listed_shown_and_cancelled(perdure: Call, home: Path) -> None:
    with open_store(home) as store:
        first = add_job(store, "first", [ADD], ORDER)
        second = add_job(store, "second", [], GateOrder(candidate="v2", profile="standard"))
    listed = json.loads(perdure("job", "list", "--json").out)
    assert [(row["id"], row["kind"], row["state"]) for row in listed] == [(second, "gate", "queued"), (first, "learn", "queued")]
    assert "grpo" in perdure("job", "list").out
    assert json.loads(perdure("job", "show", str(first), "--json").out)["targets"] == [ADD]
    assert perdure("job", "cancel", str(first), "--reason", "not today").code == 0
    with open_store(home) as store:
        cancelled = get_job(store, first)
        assert (cancelled.state, cancelled.error, cancelled.cancelled) == ("failed", "cancelled: not today", True)
        assert get_job(store, second).state == "queued"
    again = perdure("job", "cancel", str(first))
    assert (again.code, "failed already" in again.err) == (2, True)
    assert perdure("job", "show", "99").code == 2


# --- pauses ---


def test_found_play_and_learning_are_paused_and_resumed(perdure: Call, home: Path) -> None:
    assert perdure("pause").code == 2, "a reason is asked for"
    assert perdure("pause", "learning", "--reason", " ").code == 2
    assert perdure("pause", "learning", "--reason", "busy").code == 0
    assert perdure("pause", "--reason", "both now").code == 0
    paused = json.loads(perdure("status", "--json").out)["pauses"]
    assert [(row["what"], row["reason"]) for row in paused] == [("learning", "both now"), ("play", "both now")]
    assert "Play resumed" in perdure("resume", "play").out
    assert perdure("resume", "play").code == 2
    assert perdure("resume").code == 0
    assert json.loads(perdure("status", "--json").out)["pauses"] == []


# --- retired environments ---


def test_found_an_environment_is_retired_and_brought_back_with_its_anchor(perdure: Call, home: Path) -> None:
    with open_store(home) as store, store.write() as conn:
        conn.execute("UPDATE environment SET anchor = 'v1' WHERE name = ?", (ADD,))
        job = add_job(store, "waits", [ADD], ORDER)
    done = perdure("env", "retire", ADD)
    assert (done.code, "1 of its tasks waited" in done.out) == (0, True)
    assert f"Job {job} has it as a target: `perdure job cancel {job}` takes it back." in done.out
    with open_store(home) as store:
        assert [row.name for row in environments_in_use(store)] == []
        assert counts(store)["queued"] == 0
        assert store.rows("SELECT count(*) AS n FROM episode")[0]["n"] == 1, "its history stays"
    for refused in (("env", "retire", ADD), ("task", "add", ADD), ("learn", "grpo", "--target", ADD), ("probe", "--target", ADD)):
        found = perdure(*refused)
        assert (found.code, "retired" in found.err) == (2, True), refused
    assert perdure("env", "retire", "perdure:nowhere").code == 2
    assert "anchor v1" in perdure("env", "restore", ADD).out
    with open_store(home) as store:
        assert [row.name for row in environments_in_use(store)] == [ADD]
        assert anchor_of(store, ADD) == "v1"
    assert perdure("env", "restore", ADD).code == 2


# --- status as a health check ---


def test_found_status_checks_the_health_of_a_daemon(perdure: Call, home: Path) -> None:
    stopped = perdure("status", "--check", "--table")
    assert (stopped.code, "no daemon runs" in stopped.out) == (1, True)
    with HomeLock(home), open_store(home) as store:
        record_event(store, "disk", "learning", "it waits for room: of an earlier run")
        record_event(store, "start", "supervisor", "process 1")
        beat(store, "supervisor", os.getpid(), "playing", "3 more episodes")
        assert perdure("status", "--check").code == 0
        assert perdure("status", "--check").out == perdure("status", "--check", "--table").out == "playing: 3 more episodes\n"
        assert json.loads(perdure("status", "--check", "--json").out)["healthy"]
        record_event(store, "given up", "learning", "after 5 jobs")
        given_up = perdure("status", "--check", "--table")
        assert (given_up.code, given_up.out) == (1, "learning: after 5 jobs\n")
        record_event(store, "start", "supervisor", "process 2")
        record_event(store, "disk", "play", "it waits for room: the disk has 1 GiB free")
        found = json.loads(perdure("status", "--check", "--json").out)
        assert (found["healthy"], found["troubles"]) == (False, ["play: it waits for room: the disk has 1 GiB free"])
        record_event(store, "disk", "play", "there is room again")
        beat(store, "supervisor", os.getpid(), "restarting", "the actor died")
        assert perdure("status", "--check", "--table").out == "the actor died\n"
        assert perdure("status").code == 0
    assert perdure("status", "--check", "--watch").code == 2


def test_found_status_shows_set_times_sizes_and_a_table(perdure: Call, home: Path) -> None:
    with open_store(home) as store:
        set_alarms(store, [Alarm(name="cron", setting="0 3 * * 0 (UTC)", next=1796526000.0)])
    found = json.loads(perdure("status").out)
    assert found["alarms"] == [{"name": "cron", "setting": "0 3 * * 0 (UTC)", "next": "2026-12-06T03:00:00+00:00", "rung": None}]
    assert found["sizes"]["database"] > 0
    assert found["sizes"]["versions"] > 0
    text = perdure("status", "--table").out
    assert "2026-12-06 03:00 UTC (cron = 0 3 * * 0 (UTC))" in text
    assert "database" in text
    with open_store(home) as store:
        set_alarms(store, [Alarm(name="cron", setting="0 4 * * 0 (Europe/Berlin)", next=1796526000.0)])
    assert "2026-12-06 04:00 CET (cron = 0 4 * * 0 (Europe/Berlin))" in perdure("status", "--table").out
    with open_store(home) as store:
        set_alarms(store, [Alarm(name="every_minutes", setting="60", next=1000.0)])
    assert "(passed, and is made up for) (every_minutes = 60)" in perdure("status", "--table").out


def test_found_status_names_what_works_what_is_retired_and_the_confinement(perdure: Call, home: Path) -> None:
    found = json.loads(perdure("status").out)
    assert (found["doing"], found["retired"], found["confinement"]) == (None, [], None)
    perdure("env", "retire", ADD)
    with HomeLock(home), open_store(home) as store:
        says = "environments cannot be confined here (no namespaces); only trusted ones can run"
        record_event(store, CONFINEMENT, "supervisor", says)
        beat(store, "supervisor", os.getpid(), "learning", "job 3: grpo perdure:add, 5 updates so far")
        found = json.loads(perdure("status").out)
        assert (found["doing"], found["idle_reason"]) == ("job 3: grpo perdure:add, 5 updates so far", None)
        assert found["retired"] == [ADD]
        assert found["confinement"] == {"possible": False, "obstacle": says}
        record_event(store, CONFINEMENT, "supervisor", CONFINED)
        assert json.loads(perdure("status").out)["confinement"] == {"possible": True, "obstacle": None}
        record_event(store, CONFINEMENT, "supervisor", says)
        text = perdure("status", "--table").out
    for line in ("doing  job 3: grpo perdure:add, 5 updates so far", f"retired  {ADD}", "confinement  environments cannot be confined"):
        assert line in text


@pytest.mark.processes
def test_found_the_zone_of_the_machine_is_not_needed_to_tick() -> None:
    code = "from perdure.agent.supervision.ticker import start_ticker\nstart_ticker(print).shutdown()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TZ": "Nowhere/Town"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_found_status_on_a_small_screen_begins_with_what_matters_and_says_what_is_left_out() -> None:
    text = "state  playing\n" + "x" * 25 + "\n\nlast\n"
    assert fitting(text, 80, 4) == text.rstrip("\n")
    assert fitting(text, 10, 6) == "state  playing\n" + "x" * 25 + "\n... 2 more lines"
    assert fitting(text, 10, 5) == "state  playing\n... 3 more lines"
    assert fitting(text, 10, 7) == text.rstrip("\n")
    assert fitting("", 80, 24) == ""


# --- the limits of a container ---


@pytest.mark.parametrize("version", [1, 2])
def test_found_the_limits_of_control_groups_are_seen(tmp_path: Path, version: int) -> None:
    own, mount = tmp_path / "cgroup", tmp_path / "mount"
    own.write_text("0::/pod/box\n" if version == 2 else "4:cpu,cpuacct:/pod/box\n5:memory:/pod/box\n")
    for group, quota, memory in (("", -1, None), ("pod", 150000, 2**30), ("pod/box", 300000, 2**32)):
        cpu_folder = mount / group if version == 2 else mount / "cpu" / group
        memory_folder = mount / group if version == 2 else mount / "memory" / group
        cpu_folder.mkdir(parents=True, exist_ok=True)
        memory_folder.mkdir(parents=True, exist_ok=True)
        if version == 2:
            (cpu_folder / "cpu.max").write_text(f"{'max' if quota < 0 else quota} 100000\n")
            (memory_folder / "memory.max").write_text(f"{memory or 'max'}\n")
        else:
            (cpu_folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            (cpu_folder / "cpu.cfs_period_us").write_text("100000\n")
            (memory_folder / "memory.limit_in_bytes").write_text(f"{memory or 2**63 - 4096}\n")
    assert cpu_quota(own, mount) == 1.5
    assert memory_limit_bytes(own, mount) == 2**30
    assert cpu_quota(tmp_path / "none", mount) == float("inf")
    assert usable_cores(tmp_path / "none", mount) >= 1
    assert memory_limit_bytes(tmp_path / "none", mount) is None


def test_found_events_of_pauses_and_cancelled_jobs_are_kept(perdure: Call, home: Path) -> None:
    with open_store(home) as store:
        job = add_job(store, "first", [ADD], ORDER)
    perdure("pause", "play", "--reason", "noise")
    perdure("resume", "play")
    perdure("job", "cancel", str(job))
    with open_store(home) as store:
        kinds = [(event.kind, event.subject) for event in reversed(events(store))]
    assert kinds[-3:] == [("paused", "play"), ("resumed", "play"), ("cancelled", f"job {job}")]
