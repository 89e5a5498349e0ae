"""What no client of ours sends: each request gets an answer in one line, and nothing is lost or told that should not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.agent.web.api.asking import Asker, asker
from tests.agent.web.api.lived_home import ADD

from perdure.agent.web.access import LONGEST_BODY_BYTES
from perdure.memory.changes import list_changes
from perdure.memory.store import open_store

SQL = "x'; DROP TABLE episode; --"


@pytest.mark.parametrize(
    "query",
    [
        "limit=1000000000",
        "limit=0",
        "limit=-1",
        "limit=1001",
        "limit=ten",
        "limit=1e3",
        "limit=" + "9" * 5000,
        "before=0",
        "before=9223372036854775808",
        "before=1.5",
        "limit=1&limits=2",
        "nonsense=1",
        "purpose=none",
        "outcome=won",
        "version=..%2f..%2fetc",
        "version=" + "v" * 65,
        "version=V1",
        "environment=",
        "environment=" + "x" * 2001,
    ],
)
def test_parameters_out_of_bounds_are_refused(ask: Asker, query: str) -> None:
    told = ask.get(f"/api/v1/episodes?{query}")
    assert (told.status, list(told.json())) == (422, ["error"])
    assert len(told.body) < 2500


@pytest.mark.parametrize(
    "path",
    [
        "learning?bins=100000",
        "learning?bins=0",
        "learning?since=nan",
        "learning?since=1e300",
        "learning?since=inf",
        "learning?jobs=1000",
        "retention?limit=10000",
        "retention?which=none",
        "gates/1/pairs?limit=100001",
        "gates/1/pairs?role=judge",
        "versions/v1/against/v0?seed=-1",
        "versions/v1/against/v0?seed=7",
        "now?turns=1000000",
        "system?lines=1000000",
        "panel?scores=every",
        "episodes/0",
        "episodes/-1",
        "episodes/9223372036854775808",
        "episodes/LAST",
        "episodes/1%00",
        "jobs/1;2",
        "tasks/%F0%9F%98%80",
        "versions/..%5C..%5Cetc",
        "versions/V1",
        "versions/%00",
        "status/",
        "versions/v1/",
    ],
)
def test_no_other_parameter_is_taken(ask: Asker, path: str) -> None:
    told = ask.get(f"/api/v1/{path}")
    assert told.status in (404, 422)
    assert told.json().keys() == {"error"}


def test_a_time_before_the_first_and_after_the_last_episode(ask: Asker) -> None:
    assert ask.get("/api/v1/learning", since=0, until=1).json()["environments"] == []
    assert ask.get("/api/v1/learning", since=2_000_000_000, until=1_000_000_000).json()["environments"] == []
    assert ask.get("/api/v1/learning", since=253402300799).status == 200


@pytest.mark.parametrize("name", [SQL, "' OR 1=1 --", "%", "perdure:*", "\u202e", "<script>", "a\nb"])
def test_sql_and_signs_in_names_are_names(ask: Asker, name: str) -> None:
    for path, query in (("episodes", {"environment": name}), ("environments", {"name": name}), ("gates/1/pairs", {"environment": name})):
        told = ask.get(f"/api/v1/{path}", **query)
        assert told.status == (200 if "pairs" in path else 404)
    assert len(ask.get("/api/v1/episodes").json()) == 11


@pytest.mark.parametrize("path", ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "....//etc", "v1/../../../x"])
def test_a_path_in_the_name_of_a_version_leads_nowhere(ask: Asker, path: str) -> None:
    for place in (f"/api/v1/versions/{path}", f"/api/v1/versions/{path}/against/v1"):
        told = ask.get(place)
        assert told.status in (404, 422)
        assert b"root:" not in told.body


BAD_BODIES: list[Any] = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"\xff\xfe",
    b"[" * 50_000,
    b'{"reason": ' + b"9" * 5000 + b"}",
    {"reason": 7},
    {"reason": ""},
    {"reason": "x" * 2001},
    {"reason": ["a"]},
    {"reason": "r", "extra": 1},
    {"reason": "r", "by": ""},
    {"reason": "r", "by": "x" * 101},
    {"reason": "r", "what": "everything"},
    {},
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_body_that_is_not_as_asked_changes_nothing(ask: Asker, home: Path, body: Any) -> None:
    told = ask.post("/api/v1/pause", body)
    assert told.status in (400, 422)
    assert (list(told.json()), len(told.body) < 2500) == (["error"], True)
    with open_store(home) as store:
        assert list_changes(store) == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("tasks", {"environment": ADD, "count": 1001}),
        ("tasks", {"environment": ADD, "count": True}),
        ("tasks", {"environment": ADD, "count": "2"}),
        ("tasks", {"environment": ADD, "seed": 2**63}),
        ("tasks", {"environment": ADD, "seed": -1}),
        ("jobs/learn", {"learner": "grpo", "options": {"lr": [1]}}),
        ("jobs/learn", {"learner": "grpo", "targets": [ADD] * 101}),
        ("jobs/learn", {"learner": "grpo", "start": "../v1"}),
        ("jobs/gate", {"candidate": "v1", "profile": "lax"}),
        ("jobs/probe", {"episodes": 10**9}),
        ("jobs/probe", {"temperature": -1}),
        ("jobs/probe", b'{"temperature": NaN}'),
        ("jobs/probe", b'{"temperature": 1e999}'),
        ("jobs/4/cancel", {}),
        ("versions/v1/promote", {}),
        ("rollback", {"reason": "r"}),
        ("rollback", {"reason": "r", "expected": "v1", "to": "../v0"}),
        ("episodes/1/judge", {"value": "1", "source": "anna", "reason": "r"}),
        ("episodes/1/judge", b'{"value": Infinity, "source": "anna", "reason": "r"}'),
        ("episodes/1/judge", {"value": 1.0, "source": "x" * 201, "reason": "r"}),
        ("environments/retire", {"environment": ADD, "path": "/etc", "reason": "r"}),
    ],
)
def test_bodies_out_of_bounds_are_refused(ask: Asker, home: Path, path: str, body: Any) -> None:
    told = ask.post(f"/api/v1/{path}", body)
    assert (told.status, list(told.json())) == (422, ["error"])
    with open_store(home) as store:
        assert list_changes(store) == []


def test_text_that_cannot_be_kept_is_refused(ask: Asker) -> None:
    for body in ({"reason": "\ud800"}, {"reason": "a\0b"}, {"reason": " "}, {"reason": "r", "by": "\ud800"}, {"reason": "r", "by": "  "}):
        assert ask.post("/api/v1/pause", body).status in (400, 422), body


@pytest.mark.parametrize("key", [None, "", " ", "a b", "x" * 201, "schlüssel", "a\tb"])
def test_a_write_needs_a_key(ask: Asker, key: str | None) -> None:
    told = ask.post("/api/v1/pause", {"reason": "r"}, key)
    assert (told.status, "Idempotency-Key" in told.json()["error"]) == (422, True)


def test_a_body_that_is_too_long_is_not_read(ask: Asker) -> None:
    told = ask.post("/api/v1/pause", b" " * (LONGEST_BODY_BYTES + 1))
    assert (told.status, list(told.json())) == (413, ["error"])


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"])
def test_a_form_is_no_request_of_the_api(ask: Asker, kind: str) -> None:
    told = ask.post("/api/v1/pause", b"reason=r&what=play", headers={"content-type": kind})
    assert told.status in (400, 415, 422)


@pytest.mark.parametrize("path", ["/api/v1/status", "/api/v1/openapi.json", "/api/v1/events", "/api/v1/episodes/1", "/api/v1/nothing"])
def test_without_the_token_nothing_is_told(ask: Asker, path: str) -> None:
    wrong = ["", "Bearer", "Bearer x", f"Basic {ask.token}", f"Bearer {ask.token}x", f"bearer  {ask.token[:-1]}", "Bearer t\u00f6ken"]
    for given in wrong:
        told = ask.get(path, {"authorization": given})
        assert (told.status, told.headers["www-authenticate"], list(told.json())) == (401, "Bearer", ["error"]), given
    told = ask.ask("GET", f"{path}?token={ask.token}&access_token={ask.token}", {"authorization": ""})
    assert told.status == 401
    assert ask.token.encode() not in told.body


def test_a_foreign_host_or_origin_is_refused(ask: Asker) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "127.0.0.1:8377, evil"):
        assert ask.get("/api/v1/status", {"host": host}).status == 403
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert ask.post("/api/v1/pause", {"reason": "r"}, headers=headers).status == 403
    assert ask.post("/api/v1/pause", {"reason": "r"}, headers={"origin": "http://127.0.0.1:8377"}).status == 200


def test_a_method_that_a_route_lacks_is_refused_with_those_that_it_has(ask: Asker) -> None:
    for method, path, allowed in (
        ("DELETE", "/api/v1/versions/v1", "GET"),
        ("PUT", "/api/v1/rollback", "POST"),
        ("POST", "/api/v1/status", "GET"),
    ):
        told = ask.ask(method, path)
        assert (told.status, told.headers["allow"], list(told.json())) == (405, allowed, ["error"])


def test_a_home_without_a_store_says_so(tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_text("model = 'tiny'\n")
    ask = asker(tmp_path / "home")
    for path in ("status", "episodes", "learning", "now", "system"):
        told = ask.get(f"/api/v1/{path}")
        assert (told.status, told.headers["retry-after"]) == (503, "5")
        assert "nothing has run in" in told.json()["error"]


def test_a_damaged_store_is_no_mistake_of_the_client(home: Path) -> None:
    ask = asker(home)
    with open_store(home) as store, store.write() as conn:
        conn.execute("UPDATE gate SET evidence = '{}'")
    told = ask.get("/api/v1/gates/1")
    assert (told.status, "damaged" in told.json()["error"]) == (503, True)
