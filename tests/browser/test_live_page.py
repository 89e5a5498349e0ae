"""A page beside a real daemon: what happens appears by itself, and what a person presses happens.

The model is scripted and the learner's is tiny; all else is real (`tests/faults`). The tests of this file share one daemon, and come in
the order of its life: play, a promotion, a rollback, a pause.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.browser.games import HOSTILE, SLOW
from tests.browser.visits import PATIENCE_MS, Visits
from tests.faults.games import RIGGED
from tests.faults.place import Place
from tests.tiny_models import tiny_llama

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

MORE = """
[supervise]
hang_s = 300
"""
LONG_MS = 300_000
"""A job loads a model, learns and is judged."""


@pytest.fixture(scope="module")
def place(place_of_pages: Path) -> Iterator[Place]:
    model = tiny_llama(place_of_pages / "model")
    with Place(place_of_pages / "live", model, environments=(RIGGED, SLOW), more=MORE) as place:
        place.serves_after(place.start())
        place.wait("the page", place.page.answers)
        yield place


def press(page: Page, summary: str, button: str, reason: str, *, confirm: bool = False) -> None:
    """Open a form, give a reason and send it, as a person does."""
    act = page.locator("details.act", has=page.locator("summary", has_text=re.compile(f"^{re.escape(summary)}$"))).first
    act.locator("summary").click()
    act.get_by_label("Reason").fill(reason)
    act.get_by_role("button", name=button, exact=True).click()
    if confirm:
        page.get_by_role("dialog").get_by_role("button", name=button, exact=True).click()


def test_a_live_episode_appears_turn_by_turn(place: Place, visit: Visits) -> None:
    window = visit.open(place.page)
    page = window.page
    expect(page.locator("#line")).to_have_text("live", timeout=PATIENCE_MS)
    episode = page.locator("article.episode").first
    expect(episode).to_contain_text("Round", timeout=PATIENCE_MS)
    began = episode.get_attribute("id")
    shown = page.locator("#play").inner_text()
    page.wait_for_function("before => document.querySelector('#play').innerText !== before", arg=shown)
    assert window.page.url == window.address + "/", "it was not loaded again"
    page.wait_for_function(
        "id => [...document.querySelectorAll('article.episode')].some((one) => one.id !== id)", arg=began, timeout=PATIENCE_MS
    )
    assert (window.elsewhere(), window.complaints) == ([], [])


def test_what_an_environment_says_is_text(place: Place, visit: Visits) -> None:
    window = visit.open(place.page)
    expect(window.page.locator("article.episode").first).to_contain_text("<script>window.owned = 1</script>", timeout=PATIENCE_MS)
    number = place.ask(f"SELECT max(id) FROM episode WHERE environment = '{SLOW}' AND state = 'completed'")
    for path in ("/", f"/episodes/{number}", f"/episodes?environment={SLOW}"):
        page = window.go(path)
        assert page.evaluate("window.owned") is None
        assert page.locator("main script").count() == 0
        assert page.locator("img[src*=evil]").count() == 0
    assert HOSTILE[:40] in window.go(f"/episodes/{number}").locator("main").inner_text()
    assert "\u202e" not in window.page.content()
    assert (window.elsewhere(), window.complaints) == ([], [])


def test_a_promotion_appears(place: Place, visit: Visits) -> None:
    """On every page that shows versions, without that it is loaded again; and what a person has opened and begun to write stays."""
    window = visit.open(place.page)
    expect(window.page.locator("h1")).to_contain_text("v0 serves")
    others = {path: visit.open(place.page) for path in ("/versions", "/retention", "/learning", "/system")}
    for path, other in others.items():
        other.go(path)
        other.page.evaluate("window.loadedOnce = true")
    learning = others["/learning"].page
    act = learning.locator("details.act")
    act.locator("summary").click()
    act.get_by_label("Reason").fill("half a rea")
    learning.locator("h1").click()
    place.queue_job()
    expect(window.page.locator("h1")).to_contain_text("v1 serves", timeout=LONG_MS)
    expect(window.page.locator("#events")).to_contain_text("v1")
    for path, words in {"/versions": "v1 serves", "/retention": "v1", "/system": "version"}.items():
        page = others[path].page
        expect(page.locator("main")).to_contain_text(words, timeout=PATIENCE_MS)
        assert page.evaluate("window.loadedOnce"), path
        assert others[path].complaints == []
    expect(act.get_by_label("Reason")).to_have_value("half a rea")
    act.get_by_label("Reason").fill("")
    learning.locator("h1").click()
    expect(learning.locator("main")).to_contain_text("promote", timeout=PATIENCE_MS)
    assert learning.evaluate("window.loadedOnce")
    assert window.complaints == []


def test_a_rollback_with_a_reason_works_and_is_written_down(place: Place, visit: Visits) -> None:
    other, window = visit.open(place.page), visit.open(place.page, name="Berta")
    expect(other.page.locator("h1")).to_contain_text("v1 serves")
    page = window.go("/versions/v1")
    press(page, "Roll back", "Roll back to v0", "it forgot how to count", confirm=True)
    expect(page.get_by_role("status").first).to_contain_text("it forgot how to count")
    expect(other.page.locator("h1")).to_contain_text("v0 serves", timeout=PATIENCE_MS)
    assert place.ask("SELECT name FROM version WHERE state = 'serving'") == "v0"
    (change,) = [one for one in place.page.get("/api/v1/changes").json() if one["what"] == "version rollback"]
    assert (change["who"], change["via"], change["reason"]) == ("Berta", "page", "it forgot how to count")
    assert (window.elsewhere(), window.complaints) == ([], [])


def test_without_a_reason_nothing_is_sent(place: Place, visit: Visits) -> None:
    page = visit.open(place.page).page
    before = place.ask("SELECT count(*) FROM change")
    act = page.locator("details.act", has=page.get_by_text("Pause play", exact=True)).first
    act.locator("summary").click()
    act.get_by_role("button", name="Pause play", exact=True).click()
    assert act.get_by_label("Reason").evaluate("field => field.matches(':invalid')")
    assert place.ask("SELECT count(*) FROM change") == before


def test_pause_stops_play_within_a_second_and_resume_starts_it(place: Place, visit: Visits) -> None:
    window = visit.open(place.page)
    page = window.page
    press(page, "Pause play", "Pause play", "lunch")
    expect(page.get_by_role("status").first).to_contain_text("lunch")
    paused = place.ask("SELECT paused_at FROM pause WHERE what = 'play'")
    time.sleep(3)
    assert place.ask("SELECT max(made_at) FROM turn") < paused + 1
    assert place.ask("SELECT count(*) FROM episode WHERE state = 'running'") == 0
    expect(page.locator("#state")).to_contain_text("Play is paused since", timeout=PATIENCE_MS)
    press(page, "Resume play", "Resume play", "")
    resumed = time.time()
    place.wait("play", lambda: place.ask("SELECT max(made_at) FROM turn") > resumed)
    expect(page.locator("#play article.episode").first).to_be_visible(timeout=PATIENCE_MS)
    changes = [(one["what"], one["via"]) for one in place.page.get("/api/v1/changes").json()[:2]]
    assert changes == [("resume", "page"), ("pause", "page")]
    assert window.complaints == []


def test_a_page_says_that_it_is_old_while_its_server_is_gone(place: Place, visit: Visits) -> None:
    window = visit.open(place.page)
    expect(window.page.locator("#line")).to_have_text("live", timeout=PATIENCE_MS)
    process = place.child("web.program")
    assert process is not None
    place.wait("the page", place.page.answers)
    os.kill(process, signal.SIGKILL)
    expect(window.page.locator("#line")).to_contain_text("not connected", timeout=PATIENCE_MS)
    expect(window.page.locator("#line")).to_have_text("live", timeout=PATIENCE_MS)
