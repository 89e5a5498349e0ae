"""What the pages of the running agent show of a home: the right things of a full one, and why there is nothing of an empty one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.agent.web.pages.browser import Browser, browser_of
from tests.memory.conftest import ADD, SORT, SetClock
from tests.results import update

from perdure.agent.show.check_notes import note_check
from perdure.envs.check.rules import EnvFinding
from perdure.learners.options import CommonLearnOptions
from perdure.memory import environments, jobs, processes
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.store import open_store

PAGES = ("/", "/learning", "/tasks", "/environments", f"/environments?name={ADD}", "/system")
LISTS = ("/", "/learning", "/tasks", "/environments", "/system")


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_whole_and_of_our_files_alone(browser: Browser, path: str) -> None:
    page = browser.get(path)
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (page.left_open, page.styled) == ([], [])
    assert None not in page.scripts, "a script stands in the page"
    assert all(address.startswith("/static/") for address in page.fetched)
    assert len(page.html) < 300_000
    assert page.html.count('aria-current="page"') >= 1
    for address in page.fetched:
        assert browser.get(address).status == 200, address


@pytest.mark.parametrize("path", [*PAGES[1:], "/episodes?purpose=live", "/retention", "/versions", "/versions/v1", "/studies"])
def test_a_page_is_renewed_from_its_own_address(browser: Browser, path: str) -> None:
    page = browser.get(path)
    assert page.status == 200
    assert re.findall(r'<div id="content" data-live="[a-z ]+" data-calm="[0-9]+" data-hx-get="([^"]*)"', page.html) == [path]


@pytest.mark.parametrize("path", ["/episodes?before=2", "/learning?before=2", "/tasks?before=2", "/system?before=2", "/episodes/1"])
def test_what_is_over_stands_still(browser: Browser, path: str) -> None:
    page = browser.get(path)
    assert page.status == 200
    assert '<div id="content">' in page.html


@pytest.mark.parametrize("path", LISTS)
def test_a_home_without_a_store_says_what_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    page = browser_of(tmp_path / "home").get(path)
    assert page.status == 200
    assert "Nothing has run here yet" in page.text
    assert "perdure run" in page.text


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/", "No version serves stopped No daemon runs in this home; start one with perdure run"),
        ("/", "In play Nothing is in play."),
        ("/learning", "No live episode has been completed yet"),
        ("/tasks", "This home has no environment yet"),
        ("/environments", "This home has no environment yet: perdure run registers those of its stream"),
        ("/system", "No process has reported in this home yet"),
    ],
)
def test_where_nothing_has_happened_a_sentence_says_why(empty: Path, path: str, why: str) -> None:
    page = browser_of(empty).get(path)
    assert (page.status, page.left_open) == (200, [])
    assert why in page.text


def test_now_shows_what_serves_what_plays_and_why_no_more_happens(browser: Browser) -> None:
    page = browser.get("/")
    assert "v1 serves stopped" in page.text
    assert "No daemon runs in this home; start one with perdure run" in page.text
    assert "In play 1 episode" in page.text
    assert "1 + 1? é 11 2 tokens" in page.text
    assert "3: learn by grpo for perdure:sort?numbers=3" in page.text
    assert "Last verdict promote v1 : all held" in page.text
    assert "start supervisor process 4242 — “as usual”" in page.text
    assert [form.fields["what"] for form in page.forms if form.action == "/act/pause"] == ["play", "learning"]


def test_now_shows_the_job_with_its_progress_and_its_curve(home: Path) -> None:
    with open_store(home) as store:
        (job, lease) = _leased(jobs.lease_job(store, "learner", 60.0, SetClock()))
        jobs.set_job_state(store, lease, "running")
        for n in (1, 2, 3):
            jobs.add_step(store, lease, update(n, success=0.25 * n))
    page = browser_of(home).get("/")
    assert f"Job {job}: learn by grpo learning" in page.text
    assert f"3 of {CommonLearnOptions().updates} updates" in page.text
    assert "Success from 0.25 to 0.75" in page.text
    assert page.html.count("<polyline") == 2, "reward and success"
    assert page.form("/act/jobs/cancel", job=str(job)).confirm is not None


@pytest.mark.parametrize("part", ["state", "play", "job", "queue", "events"])
def test_a_live_part_is_what_the_page_has_in_its_place(browser: Browser, part: str) -> None:
    page, alone = browser.get("/"), browser.get(f"/?part={part}")
    assert alone.status == 200
    assert alone.text in page.text
    assert "<html" not in alone.html
    assert f'data-hx-get="/?part={part}"' in page.html
    assert browser.get("/?part=nothing").status == 422


def test_learning_shows_each_version_and_the_updates_of_a_job(browser: Browser) -> None:
    page = browser.get("/learning?job=1")
    assert "add v0 1 2 0.50 0.00 to 1.00 0.5 sort v0 1 1 0.00" in page.text
    assert "Updates of job 1, grpo done" in page.text
    assert "update reward success" in page.text
    assert "2 1 1 " in page.text, "the second update: reward 1, success 1"
    assert page.html.count("data-chart") == 3, "success of two environments, and reward and success of the job"
    assert browser.get("/learning?job=999").status == 404
    assert browser.get("/learning?environment=nothing").status == 404
    assert "Updates of job 1" in browser.get("/learning").text, "the newest with updates, if none is asked for"
    assert browser.get("/learning?part=updates&job=1").text in page.text


def test_tasks_are_listed_by_state_with_their_stage(browser: Browser) -> None:
    page = browser.get("/tasks")
    assert "The stream is at stage all, 1 of 1, shuffled" in page.text
    assert "all now shuffled 4 endless 1 2 perdure:add weight 2" in page.text
    failed = browser.get("/tasks?state=failed")
    assert "it cannot be made" in failed.text
    assert "in play" in browser.get("/tasks?state=leased").text
    assert browser.get("/tasks?state=lost").status == 422
    assert browser.get("/tasks?before=1").text.count("No task before these.") == 1


def test_environments_show_success_anchor_margin_chance_and_watch(home: Path) -> None:
    with open_store(home) as store:
        environments.retire(store, SORT)
    note_check(home, ADD, [EnvFinding(level="error", rule="runs", message="it <b>fell</b> over")])
    note_check(home, "unknown", [])
    browser = browser_of(home)
    page = browser.get("/environments")
    assert "sort critical retired" in page.text
    assert "add - 0 v1 - - 0.25 0.12 1× as expected broken" in page.text
    one = browser.get(f"/environments?name={ADD}")
    assert "as expected: mean 0.75 over 2 tasks, expected 0.25 to 0.75" in one.text
    assert "breaks a rule: error (runs): it <b>fell</b> over" in one.text
    assert one.form("/act/environments/retire").fields["environment"] == ADD
    assert browser.get(f"/environments?name={SORT}").form("/act/environments/restore").fields["environment"] == SORT
    missing = browser.get("/environments?name=unknown")
    assert (missing.status, "There is no such thing here" in missing.text) == (404, True)


def test_system_shows_disk_processes_errors_logs_and_changes(home: Path) -> None:
    with open_store(home) as store:
        processes.record_event(store, "death", "actor", "it was killed")
        processes.pause(store, "play", "maintenance")
    (home / "logs" / "actor.log").write_text("first\n" * 200 + "last \x1b[31mline\u202e <script>alert(1)</script>\n")
    page = browser_of(home).get("/system")
    assert "supervisor 4242" in page.text
    assert "death actor it was killed" in page.text
    assert "last \\x1b[31mline\\u202e <script>alert(1)</script>" in page.text
    assert page.text.count("first") < 100
    assert "database" in page.text
    assert "anna page version pin v3 é “so”" in page.text
    assert "Python" in page.text


def test_a_job_of_no_updates_is_said_to_have_none(home: Path) -> None:
    with open_store(home) as store:
        number = jobs.add_job(store, "fourth", [ADD], LearnOrder(learner="grpo"))
    assert "This job has made no update yet" in browser_of(home).get(f"/learning?job={number}").text


def _leased(found: tuple[jobs.Job, jobs.Lease] | None) -> tuple[int, jobs.Lease]:
    assert found is not None
    return found[0].id, found[1]
