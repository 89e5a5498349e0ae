"""Logs as JSON: every line is one object, whatever a process prints, and nothing in it moves a cursor."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.agent.conftest import ADD
from tests.agent.stand_ins import Place, deaths
from tests.memory.everything import fill

from perdure.agent.changes.version_moves import promote
from perdure.agent.processes.vllm.vllm_server import _print_lines
from perdure.agent.show.live_view import watching
from perdure.agent.telemetry.ended_work import EndedWork
from perdure.agent.telemetry.json_log import MOST_CHARACTERS, JsonStream, ids_of_process, json_line, plain_line
from perdure.agent.telemetry.json_report import Reported
from perdure.agent.telemetry.trace_ids import Traces
from perdure.memory.changes import Who
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.contracts.results import GroupStats, Update
from perdure.memory.jobs import add_job, add_step, fail_job, lease_job
from perdure.memory.leases import BootClock
from perdure.memory.processes import GIVEN_UP, beat, last_event_id, record_event
from perdure.memory.records import Ending, EpisodePlan, VersionRef
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.tasks import lease_tasks
from perdure.memory.trajectories.journal import StoreJournal

HOSTILE = 'a\x1b[31m\r\n\u202e\ud800\x00\x85\u2028 {"level": "error"}'


def test_a_line_is_one_ascii_object_and_its_message_is_inert() -> None:
    line = json_line("actor", "info", HOSTILE, {"episode": 7, "job": None, "environment": HOSTILE}, at=1.5)
    assert line.isascii()
    assert "\n" not in line
    found = json.loads(line)
    assert (found["time"], found["level"], found["process"], found["episode"]) == ("1970-01-01T00:00:01.500Z", "info", "actor", 7)
    assert "job" not in found
    for text in (found["message"], found["environment"]):
        assert not any(character in text for character in "\x1b\r\u202e\x00\x85")
    assert found["message"].startswith("a\\x1b[31m\\r\n\\u202e\\ud800")


def test_a_long_message_is_cut_with_a_mark() -> None:
    message = json.loads(json_line("actor", "info", "x" * 1_000_000, {}))["message"]
    assert message == "x" * MOST_CHARACTERS + f"... ({1_000_000 - MOST_CHARACTERS} more characters)"


def test_a_line_gives_its_message_back() -> None:
    assert plain_line(json_line("actor", "error", "error: no good", {})) == "error: no good"
    for line in ("error: no good", '{"time": cut', '{"time": "x"}', ""):
        assert plain_line(line) == line


def test_a_process_tells_its_job() -> None:
    assert ids_of_process("learner-7") == {"job": 7}
    assert ids_of_process("actor") == ids_of_process("learner-") == ids_of_process("learner-x") == {}


PROGRAM = """
import logging, sys, threading, warnings
from perdure.agent.telemetry.json_log import write_json_logs
write_json_logs("learner-7")
print("one", "two", end="")
print(" three\\n\\nfour")
print("\\x1b[31mred", file=sys.stderr)
print()
logging.getLogger("library").warning("it is %s", "late", extra={"version": "v3", "episode": 12})
logging.getLogger("library").info("not said")
logging.getLogger("library").error("it is %d", "wrong")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("perdure").exception("no good")
warnings.warn("old")
thread = threading.Thread(target=lambda: 1 / 0, name="t")
thread.start()
thread.join()
sys.stderr.flush()
assert not sys.stderr.isatty() and sys.stderr.fileno() == 2
raise ValueError("the end\\nof it")
"""


@pytest.mark.processes
def test_everything_that_python_writes_is_an_object_a_line() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    found: list[dict[str, Any]] = [json.loads(line) for line in done.stderr.splitlines()]
    assert {(one["process"], one["job"]) for one in found} == {("learner-7", 7)}
    assert [one["message"] for one in found[:2]] == ["one two three\n\nfour", "\\x1b[31mred"]
    assert (found[2]["level"], found[2]["message"], found[2]["version"], found[2]["episode"]) == ("warning", "it is late", "v3", 12)
    assert found[3]["message"].startswith("it is %d (TypeError")
    assert found[4]["message"].startswith("no good\nTraceback (most recent call last)")
    assert "UserWarning: old" in found[5]["message"]
    assert found[6]["message"].endswith("ZeroDivisionError: division by zero")
    assert (found[7]["level"], found[7]["message"].splitlines()[-2:]) == ("error", ["ValueError: the end", "of it"])
    assert len(found) == 8


@pytest.mark.processes
def test_a_daemon_reads_the_cause_of_a_death_in_a_log_of_json(place: Place) -> None:
    actor = place.actor("import warnings; warnings.warn('old'); raise ValueError('no\\\\n\\x1b[31m good')")
    text = (place.path / "an_actor.py").read_text()
    (place.path / "an_actor.py").write_text(
        "import os\nfrom perdure.agent.telemetry.json_log import write_json_logs\nwrite_json_logs(os.environ.pop('PERDURE_JSON_LOG'))\n"
        + text
    )
    ended = place.supervise(actor, supervise={"tries": 1}, log={"form": "json"})
    assert ended.code == 3
    log = (place.home / "logs" / "actor.log").read_text()
    found = [json.loads(line) for line in log.splitlines()]
    assert {one["process"] for one in found} == {"actor"}
    assert found[-1]["message"].startswith("error: ValueError: no")
    assert found[-2]["message"].startswith("Traceback")
    with open_store(place.home) as store:
        [death] = deaths(store)
    assert death.startswith("crashed: it ended with exit code 1: ValueError: no")


def learning(store: Store) -> None:
    """A task that is played, and a job that makes two updates and fails."""
    [(task, lease)] = lease_tasks(store, "actor", 1, 60.0, BootClock())
    journal = StoreJournal(store, BootClock())
    plan = EpisodePlan(
        environment=ADD, seed=8, group=f"task-{task.id}", member=0, purpose="live", sampler=VersionRef("v1"), temperature=1.0, lease=lease
    )
    [episode] = journal.start([plan])
    journal.finish([Ending(episode=episode, state="completed", stop_reason="terminated", total_reward=1.0, success=True, score=1.0)])
    leased = lease_job(store, "learner", 60.0, BootClock(), add_job(store, "a", [ADD], LearnOrder(learner="grpo")))
    assert leased is not None
    for n in (1, 2):
        add_step(store, leased[1], Update(update=n, groups=GroupStats(reward=0.5), sampling_s=1.5, learning_s=0.5))
    fail_job(store, leased[1], f"no {HOSTILE[:5]} good")


def test_each_piece_of_work_is_told_once_with_its_ids(home: Path) -> None:
    with open_store(home) as store:
        work = EndedWork(store)
        assert work.look() == []
        learning(store)
        found = work.look()
        assert [(one.kind, dict(one.ids), one.outcome) for one in found] == [
            ("episode", {"episode": 2, "task": 2, "version": "v1", "environment": ADD}, "completed"),
            ("update", {"update": 1, "job": 1}, "made"),
            ("update", {"update": 2, "job": 1}, "made"),
            ("job", {"job": 1}, "failed"),
        ]
        assert found[0].numbers == {"turns": 0, "reward": 1.0, "success": 1}
        assert found[1].ended - found[1].began == pytest.approx(2.0)
        assert found[1].numbers["reward"] == 0.5
        assert work.look() == []


def test_a_daemon_tells_events_states_and_work_with_their_ids(home: Path) -> None:
    with open_store(home) as store:
        reported = Reported(store, last_event_id(store))
        record_event(store, "rollback", "v1", f"from v2: {HOSTILE[:8]}")
        record_event(store, "death", "learner-9", "killed: it was ended by SIGKILL")
        record_event(store, GIVEN_UP, "learning", "after 5 jobs")
        beat(store, "actor", 1, "playing", "with v1")
        learning(store)
        found = [json.loads(line) for line in reported.lines()]
        assert [(one["level"], one.get("job"), one.get("version")) for one in found] == [
            ("info", None, "v1"),
            ("error", 9, None),
            ("error", None, None),
            ("info", None, None),
            ("info", None, "v1"),
            ("info", 1, None),
            ("info", 1, None),
            ("warning", 1, None),
        ]
        assert found[3]["message"] == "actor: playing, with v1"
        assert found[4]["message"] == "episode 2 ended: completed"
        assert found[4]["episode"] == 2
        assert found[0]["trace"] == found[4]["trace"] != found[5]["trace"] == found[7]["trace"]
        assert not any("trace" in one for one in (found[2], found[3]))
        promote(store, Who(name="anna", via="page"), "v2", reason="read it")
        [told] = [json.loads(line) for line in reported.lines()]
        assert (told["message"], told["version"]) == ("version promote (v2) by anna: read it", "v2")
        beat(store, "actor", 1, "playing", "with v1, some more")
        assert list(reported.lines()) == []


def test_one_id_goes_through_job_episodes_gate_version_and_what_it_plays(tmp_path: Path) -> None:
    with create_store(tmp_path / "home") as store:
        fill(store)
        traces, made = Traces(store), {row["name"]: row["job"] for row in store.rows("SELECT name, job FROM version")}
        assert [made[name] is not None for name in ("v0", "v1")] == [False, True]
        of = {}
        for name, job in made.items():
            live = {"episode": 1, "task": 1, "version": name, "environment": ADD}
            of[name] = traces.of({"version": name})
            assert traces.of(live) == of[name]
            if job is not None:
                gates = [row["id"] for row in store.rows("SELECT id FROM gate WHERE candidate = ?", (name,))]
                told = [{"job": job}, {"job": job, "update": 1}, {"job": job, "episode": 5, "version": "v0"}, {"job": job, "version": name}]
                assert {traces.of(ids) for ids in (*told, *({"gate": gate, "job": job, "version": name} for gate in gates))} == {of[name]}
        assert len(set(of.values())) == len(made)
        assert all(re.fullmatch("[0-9a-f]{32}", str(one)) for one in of.values())
        assert traces.of({}) is None
        assert Traces(store).of({"version": "v1"}) == of["v1"], "another process comes to the same"


def test_what_happens_while_a_run_is_watched_is_written_as_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with watching(home, json_log=True), open_store(home) as store:
        record_event(store, "death", "actor", "killed: it was ended by SIGKILL")
        learning(store)
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [one["message"] for one in found if one["level"] == "error"] == ["death (actor): killed: it was ended by SIGKILL"]


def test_what_another_program_writes_comes_into_the_log_in_our_form() -> None:
    read, write = os.pipe()
    stream, before = JsonStream("vllm", write), sys.stderr
    try:
        sys.stderr = stream
        _print_lines(io.BytesIO(b"one\x1b[31m\nRuntimeError: \xff no\n"))
    finally:
        sys.stderr = before
        os.close(write)
    with open(read, "rb") as log:
        found = [json.loads(line) for line in log]
    assert [(one["process"], one["message"]) for one in found] == [("vllm", "one\\x1b[31m"), ("vllm", "RuntimeError: \ufffd no")]
