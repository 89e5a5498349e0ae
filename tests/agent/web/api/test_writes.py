"""What the API changes: once for a key, with who, what and why, and not if something came first."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.agent.conftest import Call
from tests.agent.web.api.asking import Asker, asker
from tests.agent.web.api.lived_home import ADD, SUB
from tests.agent.web.servers import serving

from perdure.memory.changes import MadeChange, list_changes
from perdure.memory.store import Store, open_store
from perdure.memory.versions import add_candidate


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    """With a candidate v2, whose files are there."""
    with open_store(home) as store:
        (home / "versions" / "v2").mkdir()
        (home / "versions" / "v2" / "adapter_model.safetensors").write_bytes(b"weights")
        add_candidate(store, None, "v2", "v1", "hash-of-v2", "versions/v2", [SUB], None)
        yield store


def last_change(store: Store) -> MadeChange:
    return list_changes(store, 1)[0]


WRITES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "tasks": ("/api/v1/tasks", {"environment": ADD, "seed": 7, "count": 2}, "task add", ADD),
    "learn": ("/api/v1/jobs/learn", {"learner": "grpo", "targets": [ADD], "options": {"updates": 2, "lr": 0.001}}, "learn", "job 5"),
    "gate": ("/api/v1/jobs/gate", {"candidate": "v2", "targets": [SUB], "profile": "economy"}, "gate", "job 5"),
    "probe": ("/api/v1/jobs/probe", {"version": "v1", "episodes": 5}, "probe", "job 5"),
    "panel": ("/api/v1/jobs/panel", {"version": "v1", "scores": "all"}, "panel", "job 5"),
    "cancel": ("/api/v1/jobs/4/cancel", {"reason": "not now"}, "job cancel", "job 4"),
    "pause": ("/api/v1/pause", {"what": "play", "reason": "the fan"}, "pause", "play"),
    "promote": ("/api/v1/versions/v2/promote", {"reason": "read it", "expected": "v1"}, "version promote", "v2"),
    "reject": ("/api/v1/versions/v2/reject", {"reason": "read it"}, "version reject", "v2"),
    "pin": ("/api/v1/versions/v1/pin", {"reason": "for the talk"}, "version pin", "v1"),
    "unpin": ("/api/v1/versions/v1/pin", {"pinned": False, "reason": "the talk is over"}, "version unpin", "v1"),
    "rollback": ("/api/v1/rollback", {"reason": "worse", "expected": "v1"}, "version rollback", "v0"),
    "judge": ("/api/v1/episodes/2/judge", {"value": -0.5, "source": "anna", "reason": "rude"}, "episode reward", "episode 2"),
    "retire": ("/api/v1/environments/retire", {"environment": SUB, "reason": "done with it"}, "env retire", SUB),
    "resume": ("/api/v1/resume", {"what": "play", "reason": "it is cool"}, "resume", "play"),
    "restore": ("/api/v1/environments/restore", {"environment": SUB, "reason": "after all"}, "env restore", SUB),
}
FIRST = {"resume": "pause", "restore": "retire"}
"""What must be done before what."""
WITHOUT_REASON = {"tasks", "learn", "gate", "probe", "panel", "resume"}
"""Writes that may be made without saying why."""


@pytest.mark.parametrize("name", WRITES)
def test_a_change_is_made_once_for_a_key_and_written_down(ask: Asker, store: Store, name: str) -> None:
    if before := FIRST.get(name):
        assert ask.post(*WRITES[before][:2], "key-0").status == 200
    path, body, what, subject = WRITES[name]
    first = ask.post(path, {**body, "by": "anna"})
    assert first.status == 200, first.body
    made = last_change(store)
    assert (made.who, made.via, made.what, made.subject, made.reason, made.key) == (
        "anna",
        "api",
        what,
        subject,
        body.get("reason"),
        "key-1",
    )
    again = ask.post(path, {**body, "by": "anna"})
    assert (again.status, again.json()) == (200, first.json())
    assert last_change(store).id == made.id
    other = ask.post("/api/v1/jobs/probe", {"episodes": 6})
    assert (other.status, "stands for change" in other.json()["error"]) == (409, True)


@pytest.mark.parametrize("name", [name for name in WRITES if name not in WITHOUT_REASON])
def test_what_moves_or_takes_away_needs_a_reason(ask: Asker, store: Store, name: str) -> None:
    path, body, _, _ = WRITES[name]
    rest = {key: value for key, value in body.items() if key != "reason"}
    for without in (rest, {**rest, "reason": ""}, {**rest, "reason": None}):
        told = ask.post(path, without)
        assert (told.status, "reason" in told.json()["error"]) == (422, True), told.body
    assert list_changes(store) == []


def test_without_a_name_it_is_the_token_that_asks(ask: Asker, store: Store) -> None:
    assert ask.post("/api/v1/versions/v2/pin", {"reason": "for the talk"}).status == 200
    assert last_change(store).who == "token"


def test_what_a_change_answers_is_what_its_command_prints(ask: Asker, store: Store, home: Path, perdure: Call) -> None:
    told = ask.post("/api/v1/versions/v1/pin", {"reason": "for the talk"}).json()
    assert told == json.loads(perdure("version", "list", "--home", str(home), "--json").out)[1]
    assert told["pinned"]
    tasks = ask.post("/api/v1/tasks", {"environment": ADD, "count": 2}, "key-2").json()
    assert tasks == json.loads(perdure("task", "list", "--limit", "2", "--home", str(home), "--json").out)[::-1]


def test_pause_and_resume(ask: Asker, store: Store) -> None:
    paused = ask.post("/api/v1/pause", {"reason": "the fan"}).json()
    assert [(one["what"], one["reason"]) for one in paused] == [("learning", "the fan"), ("play", "the fan")]
    assert [one["what"] for one in ask.post("/api/v1/resume", {"what": "play"}, "key-2").json()] == ["learning"]


def test_a_retired_environment_comes_back(ask: Asker, store: Store) -> None:
    assert ask.post("/api/v1/environments/retire", {"environment": SUB, "reason": "done with it"}).json()["retired"]
    assert ask.get("/api/v1/environments", name=SUB).json()["retired"] is not None
    assert ask.post("/api/v1/environments/restore", {"environment": SUB, "reason": "after all"}, "key-2").json() == {
        "name": SUB,
        "retired": False,
        "anchor": "v0",
    }


def test_what_came_first_stands(ask: Asker, store: Store) -> None:
    for path, body in {
        "/api/v1/rollback": {"reason": "worse", "expected": "v0"},
        "/api/v1/versions/v1/promote": {"reason": "again"},
        "/api/v1/jobs/1/cancel": {"reason": "too late"},
        "/api/v1/environments/restore": {"environment": SUB, "reason": "after all"},
    }.items():
        told = ask.post(path, body)
        assert told.status == 409, told.body
    assert list_changes(store) == []


def test_two_who_roll_back_at_once_go_back_one_version(ask: Asker, store: Store, home: Path) -> None:
    ask.post("/api/v1/versions/v2/promote", {"reason": "r"}, "first")
    told: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: told.append(ask.post("/api/v1/rollback", {"reason": "r", "expected": "v2"}, f"k{n}").status))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [200, 409, 409, 409]
    assert ask.get("/api/v1/status").json()["serving"] == "v1"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("versions/v9/promote", 404),
        ("versions/v9/reject", 404),
        ("versions/v9/pin", 404),
        ("jobs/99/cancel", 404),
        ("versions/v1/reject", 400),
        ("rollback", 400),
    ],
)
def test_what_cannot_be_done_is_said(ask: Asker, store: Store, path: str, status: int) -> None:
    if path == "rollback":
        ask.post("/api/v1/rollback", {"reason": "to the first", "expected": "v1"}, "first")
    body = {"reason": "r", **({"expected": "v0"} if path == "rollback" else {})}
    told = ask.post(f"/api/v1/{path}", body)
    assert (told.status, told.json().keys()) == (status, {"error"})


def test_no_change_names_code_or_a_file(ask: Asker, store: Store) -> None:
    for environment in ("py:os:system", "gym:CartPole-v1", "perdure:first-word", "../../etc/passwd"):
        assert ask.post("/api/v1/tasks", {"environment": environment}).status == 404
        assert ask.post("/api/v1/jobs/learn", {"learner": "grpo", "targets": [environment]}).status == 404
    for options in ({"rewards": "py:os:system"}, {"demos": "/etc/passwd"}, {"nonsense": 1}):
        told = ask.post("/api/v1/jobs/learn", {"learner": "trace-sft", "targets": [ADD], "options": options})
        assert told.status in (400, 404), (options, told.body)
    assert list_changes(store) == []


def test_an_episode_that_did_not_end_gets_no_reward(ask: Asker, store: Store) -> None:
    assert ask.post("/api/v1/episodes/11/judge", {"value": 1.0, "source": "anna", "reason": "good"}).status == 400
    assert ask.post("/api/v1/episodes/99/judge", {"value": 1.0, "source": "anna", "reason": "good"}).status in (400, 404)
    assert ask.post("/api/v1/episodes/1/judge", {"value": 1.0, "source": "environment", "reason": "good"}).status == 400
    assert ask.post("/api/v1/episodes/1/judge", {"value": 1e13, "source": "anna", "reason": "good"}).status == 400


def test_a_busy_store_is_said_with_when_to_ask_again(home: Path) -> None:
    ask = asker(home, busy_ms=50)
    with open_store(home) as store, store.write():
        told = ask.post("/api/v1/pause", {"reason": "r"})
    assert (told.status, told.headers["retry-after"]) == (503, "5")
    assert "stays locked" in told.json()["error"]
    assert ask.post("/api/v1/pause", {"reason": "r"}).status == 200


@pytest.mark.processes
def test_a_full_disk_changes_nothing_and_can_still_be_read(home: Path) -> None:
    """The kernel lets no file of the server grow beyond 64 KiB, so that the log of the database cannot take what is written."""
    limited = ("bash", "-c", 'trap "" XFSZ; ulimit -f 64; exec "$@"', "bash")
    with serving(home, prefix=limited) as server:
        headers = {**server.bearer, "content-type": "application/json", "idempotency-key": "k"}
        body = json.dumps({"environment": ADD, "count": 1000, "reason": "r" * 2000})
        told = server.ask("POST", "/api/v1/tasks", headers, body)
        assert told.status == 503, told.text[:500]
        assert told.headers["retry-after"] == "5"
        assert len(server.get("/api/v1/tasks").json()) == 4
        assert server.get("/api/v1/changes").json() == []
