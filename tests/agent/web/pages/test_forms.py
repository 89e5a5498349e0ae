"""The forms of pages: who may send one, that it acts once, what it leaves in the audit trail, and where it leads."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.agent.web.pages.browser import Browser, browser_of
from tests.memory.conftest import ADD

from perdure.agent.web.pages.acts import router
from perdure.agent.web.pages.forms import SAID_COOKIE
from perdure.memory import environments, processes, versions
from perdure.memory.changes import MadeChange, list_changes
from perdure.memory.jobs import get_job
from perdure.memory.store import open_store
from perdure.memory.trajectories.rewards import rewards_of

WHY = "it is time"
ACTS: dict[str, dict[str, str]] = {
    "/act/pause": {"what": "play"},
    "/act/resume": {"what": "play"},
    "/act/jobs/cancel": {"job": "3"},
    "/act/jobs/gate": {"candidate": "v3"},
    "/act/jobs/probe": {"version": "v1"},
    "/act/jobs/learn": {"learner": "grpo", "target": ADD},
    "/act/tasks": {"environment": ADD, "count": "2", "seed": "40"},
    "/act/environments/retire": {"environment": ADD},
    "/act/environments/restore": {"environment": ADD},
    "/act/versions/promote": {"version": "v3", "expected": "v1"},
    "/act/versions/reject": {"version": "v3", "expected": "v1"},
    "/act/versions/rollback": {"expected": "v1"},
    "/act/versions/pin": {"version": "v1"},
    "/act/episodes/judge": {"episode": "1", "reward": "0.5", "source": "anna"},
}
"""Every form, and what it asks for."""


def marked(browser: Browser, key: str = "key-1", **fields: str) -> dict[str, str]:
    """The fields of a form of this session."""
    return {"csrf": browser.get("/").forms[0].fields["csrf"], "key": key, "reason": WHY, **fields}


def changes(home: Path) -> list[MadeChange]:
    with open_store(home, reading=True) as store:
        return [change for change in list_changes(store) if change.reason == WHY]


def test_every_form_is_in_the_table_of_this_test() -> None:
    assert {route.path for route in router.routes} == ACTS.keys()  # type: ignore[attr-defined]


@pytest.mark.parametrize("action", ACTS)
def test_a_form_acts_only_with_the_mark_of_its_session(browser: Browser, home: Path, action: str) -> None:
    right = marked(browser, **ACTS[action])
    stranger = browser_of(home)
    other = stranger.get("/").forms[0].fields["csrf"]
    for csrf in ("", "0" * 64, "ü", other):
        assert browser.send(action, {**right, "csrf": csrf}).status in (403, 422), csrf
    assert browser.send(action, {name: value for name, value in right.items() if name != "csrf"}).status == 422
    assert browser.send(action, right, {"origin": "http://evil.example"}).status == 403
    assert browser.send(action, right, {"sec-fetch-site": "cross-site"}).status == 403
    browser.cookies.clear()
    answer = browser.send(action, right)
    assert (answer.status, answer.headers["location"]) == (303, "/login")
    assert changes(home) == []


@pytest.mark.parametrize("action", [action for action in ACTS if action not in ("/act/resume", "/act/environments/restore")])
def test_a_form_that_is_sent_twice_acts_once_and_says_so_once(browser: Browser, home: Path, action: str) -> None:
    form = marked(browser, **ACTS[action])
    first, second = browser.send(action, form), browser.send(action, form)
    assert (first.status, second.status) == (303, 303), first.text
    assert first.headers["location"] == second.headers["location"]
    (change,) = changes(home)
    assert (change.who, change.via, change.key) == ("Anna", "page", "key-1")
    told = browser.get("/")
    assert 'role="status"' in told.html
    assert SAID_COOKIE not in browser.cookies
    assert "note good" not in browser.get("/").html, "what was said once is not said again"
    assert "Something else was changed first" in browser.send(action, {**form, "reason": "another"}).text
    assert len(changes(home)) == 1


def test_forms_of_the_pages_do_what_they_say(browser: Browser, home: Path) -> None:
    def seen(path: str, action: str, told: str, fields: dict[str, str] | None = None, **hidden: str) -> None:
        after = browser.submit(browser.get(path).form(action, **hidden), reason=WHY, **(fields or {}))
        assert after.status == 200, after.text
        assert told in after.text

    seen("/", "/act/pause", f"Play is paused: {WHY}", what="play")
    seen("/", "/act/pause", f"Learning is paused: {WHY}", what="learning")
    seen("/", "/act/resume", "Play goes on.", what="play")
    seen("/", "/act/jobs/cancel", f"Job 3 is cancelled: {WHY}", job="3")
    seen("/tasks", "/act/tasks", "2 tasks of perdure:add will be played next.", {"environment": ADD, "count": "2"})
    seen("/learning", "/act/jobs/learn", f"waits: grpo on {ADD}.", {"learner": "grpo", "target": ADD})
    seen(f"/environments?name={ADD}", "/act/environments/retire", "perdure:add is retired. 3 of its tasks waited")
    seen(f"/environments?name={ADD}", "/act/environments/restore", "perdure:add is back in play, replay and gate.")
    with open_store(home, reading=True) as store:
        assert [one.what for one in processes.pauses(store)] == ["learning"]
        assert WHY in (get_job(store, 3).error or "")
        assert [row.retired for row in environments.list_environments(store)] == [None, None]
    assert [change.what for change in reversed(changes(home))] == [
        "pause", "pause", "resume", "job cancel", "task add", "learn", "env retire", "env restore",
    ]  # fmt: skip
    trail = browser.get("/system").text
    assert "Anna page job cancel job 3 it is time" in trail


def test_versions_and_episodes_are_changed_by_forms(browser: Browser, home: Path) -> None:
    steps = [
        ("/act/versions/promote", {"version": "v3", "expected": "v1"}, "/versions/v3"),
        ("/act/versions/rollback", {"expected": "v3"}, "/versions"),
        ("/act/versions/pin", {"version": "v1"}, "/versions/v1"),
        ("/act/episodes/judge", {"episode": "1", "reward": "-0.5", "source": "anna"}, "/episodes/1"),
    ]
    for n, (action, fields, path) in enumerate(steps):
        answer = browser.send(action, marked(browser, f"key-{n}", **fields))
        assert (answer.status, answer.headers["location"]) == (303, path), answer.text
    with open_store(home, reading=True) as store:
        assert versions.serving(store).name == "v1"
        assert versions.get_version(store, "v1").pinned
        assert rewards_of(store, 1)["anna"] == -0.5


def test_of_two_persons_who_roll_back_at_once_one_is_told(home: Path) -> None:
    anna, bert = browser_of(home), browser_of(home)
    first = anna.send("/act/versions/rollback", marked(anna, "key-a", expected="v1"))
    second = bert.send("/act/versions/rollback", marked(bert, "key-b", expected="v1"))
    assert (first.status, second.status) == (303, 409)
    assert "v0 serves now, no longer v1" in second.text
    assert "Nothing was changed" in second.text


@pytest.mark.parametrize(
    ("action", "fields", "status"),
    [
        ("/act/pause", {"what": "everything"}, 422),
        ("/act/pause", {"what": "play", "reason": ""}, 422),
        ("/act/pause", {"what": "play", "reason": "  "}, 400),
        ("/act/pause", {"what": "play", "reason": "x" * 2001}, 422),
        ("/act/pause", {"what": "play", "key": "with blank"}, 422),
        ("/act/pause", {"what": "play", "key": ""}, 422),
        ("/act/resume", {"what": "play"}, 409),
        ("/act/jobs/cancel", {"job": "0"}, 422),
        ("/act/jobs/cancel", {"job": "99"}, 404),
        ("/act/jobs/cancel", {"job": "1"}, 409),
        ("/act/tasks", {"environment": "perdure:none"}, 404),
        ("/act/tasks", {"environment": ADD, "count": "1001"}, 422),
        ("/act/tasks", {"environment": ADD, "seed": "99999999999"}, 400),
        ("/act/tasks", {"environment": "../../etc/passwd"}, 404),
        ("/act/jobs/learn", {"learner": "py:os:system"}, 400),
        ("/act/versions/promote", {"version": "../v1"}, 404),
        ("/act/versions/pin", {"version": "v1", "reason": ""}, 422),
        ("/act/episodes/judge", {"episode": "1", "reward": "0.5", "source": "anna", "reason": ""}, 422),
        ("/act/environments/retire", {"environment": ADD, "reason": ""}, 422),
        ("/act/versions/pin", {"version": "v1'; DROP TABLE version; --"}, 404),
        ("/act/episodes/judge", {"episode": "1", "reward": "nan", "source": "anna"}, 422),
        ("/act/episodes/judge", {"episode": "99", "reward": "1", "source": "anna"}, 400),
        ("/act/environments/restore", {"environment": ADD}, 409),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    browser: Browser, home: Path, action: str, fields: dict[str, str], status: int
) -> None:
    answer = browser.send(action, {**marked(browser), **fields})
    assert answer.status == status, answer.text
    assert "Nothing was changed" in answer.text
    assert (answer.left_open, answer.styled) == ([], [])
    assert changes(home) == []


def test_a_form_leads_only_to_pages_of_ours(browser: Browser) -> None:
    for n, (name, value) in enumerate([("next", "//evil.example"), ("version", "/evil.example"), ("version", "..//evil.example")]):
        fields = {"version": "v1", name: value}
        answer = browser.send(f"/act/versions/pin?next=//evil.example&{name}={value}", marked(browser, f"key-{n}", **fields))
        location = answer.headers.get("location", "/")
        assert location.startswith("/"), location
        assert not location.startswith(("//", "/\\")), location


def test_nobody_else_can_make_a_page_say_that_something_was_done(browser: Browser, home: Path) -> None:
    browser.send("/act/pause", marked(browser, what="play"))
    said = browser.cookies[SAID_COOKIE]
    forged = [f"{said}0", said.replace(".", "..", 1), "9999999999.cGF1c2Vk." + "0" * 64, "ü", "", "." * 9, "x" * 5000]
    for text in forged:
        browser.cookies[SAID_COOKIE] = text
        page = browser.get("/")
        assert (page.status, "note good" in page.html) == (200, False), text
    stranger = browser_of(home)
    stranger.cookies[SAID_COOKIE] = said
    assert "note good" not in stranger.get("/").html, "it is of another session"
    browser.cookies[SAID_COOKIE] = said
    assert "note good" in browser.get("/?done=<script>").html


def test_a_name_is_kept_with_what_its_person_does(home: Path) -> None:
    named = browser_of(home)
    named.cookies.clear()
    named.sign_in("  <b>Zoë</b>\u202e\x1b[31m  ")
    named.send("/act/pause", marked(named, what="play"))
    (change,) = changes(home)
    assert change.who == "<b>Zoë</b>\\u202e\\x1b[31m"
    assert "<b>Zoë" not in named.get("/system").html
    nameless = browser_of(home)
    nameless.cookies.clear()
    nameless.sign_in("")
    nameless.send("/act/pause", marked(nameless, "key-2", what="play"))
    assert changes(home)[0].who == "token"
