"""Every page of a home with a life in it, in a real browser: nothing is fetched from elsewhere, hostile texts stay texts, axe finds no
serious fault, nothing is cut off on a phone, and a keyboard is enough.

With PERDURE_PICTURES=DIR each page is also kept there as a picture.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import expect
from tests.agent.studies.report.made_studies import CLAIMS, keep_study, stream_cells
from tests.agent.web.evidence.judged_home import make_home
from tests.agent.web.servers import Server, serving
from tests.browser.visits import PATIENCE_MS, Scheme, Size, Visit, Visits

from perdure.agent.web.evidence.study_parts import PARTS
from perdure.memory.store import open_store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

LOOKS: list[tuple[Size, Scheme]] = [("desktop", "light"), ("desktop", "dark"), ("phone", "light"), ("phone", "dark")]
STUDY = "order of stages"
PICTURES = os.environ.get("PERDURE_PICTURES")


@pytest.fixture(scope="module")
def server(place_of_pages: Path) -> Iterator[Server]:
    home = place_of_pages / "judged" / "home"
    home.parent.mkdir()
    make_home(home)
    keep_study(place_of_pages / "studies" / STUDY, stream_cells({"naive": 0.5, "replay": 0.1}), {"claims": list(CLAIMS), "ok": True})
    with serving(home, f"studies = '{place_of_pages / 'studies'}'") as server:
        yield server


@pytest.fixture(scope="module")
def paths(server: Server) -> list[str]:
    """One of every kind of page, by way of the links of the others."""
    with open_store(server.home) as store:
        [gate] = [row["id"] for row in store.rows("SELECT max(id) AS id FROM gate")]
        [episode] = [row["id"] for row in store.rows("SELECT max(id) AS id FROM episode WHERE turns > 0")]
        [one] = [row["environment"] for row in store.rows("SELECT environment FROM pair ORDER BY gate LIMIT 1")]
    pair = server.get(f"/api/v1/versions/v1/against/v2?environment={quote(one, safe='')}").json()["pairs"][0]
    return [
        "/",
        "/learning",
        "/retention",
        f"/retention/v2?environment={one}",
        "/retention/v2/skill?name=arithmetic",
        "/versions",
        "/versions/v2",
        "/versions/v3",
        "/versions/v1/against/v2",
        f"/versions/v1/against/v2?a_episode={pair['a_episode']}&b_episode={pair['b_episode']}",
        f"/gates/{gate}",
        "/gates/1",
        "/episodes",
        f"/episodes/{episode}",
        f"/episodes/{episode}/turns/0",
        "/tasks",
        "/environments",
        f"/environments?name={one}",
        "/studies",
        *(f"/studies/{quote(STUDY)}?part={part}" for part in PARTS),
        "/system",
        "/nowhere",
    ]


@pytest.mark.parametrize(("size", "scheme"), LOOKS, ids=[" ".join(look) for look in LOOKS])
def test_no_page_has_a_serious_fault_or_asks_another_server(
    server: Server, paths: list[str], visit: Visits, size: Size, scheme: Scheme
) -> None:
    window = visit.open(server, size=size, scheme=scheme)
    found: dict[str, list[str]] = {}
    for path in paths:
        page = window.go(path)
        told = window.faults()
        if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            told.append("the page is wider than the window")
        if page.evaluate("window.owned !== undefined"):
            told.append("a text has run")
        if told:
            found[path] = told
        keep(window, f"{size}-{scheme}", path)
    assert found == {}
    assert window.elsewhere() == []
    missing = "Failed to load resource: the server responded with a status of 404"
    assert [one for one in window.complaints if missing not in one] == []


def test_faults_that_are_there_are_found(server: Server, visit: Visits) -> None:
    window = visit.open(server)
    spoil = """() => {
        const html = "<img src='/static/perdure.svg'><button></button><p id='pale'>pale</p>";
        document.querySelector("main").insertAdjacentHTML("beforeend", html);
        document.getElementById("pale").style.setProperty("color", "#cccccc");
        fetch("http://127.0.0.1:9/elsewhere").catch(() => null);
    }"""
    window.page.evaluate(spoil)
    assert {fault.partition(":")[0] for fault in window.faults()} == {"image-alt", "button-name", "color-contrast"}
    assert any("violates the following Content Security Policy" in complaint for complaint in window.complaints)


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_the_way_in_has_no_serious_fault(server: Server, visit: Visits, size: Size) -> None:
    window = visit.open(server, size=size, signed_in=False)
    page = window.go("/versions")
    assert page.url == window.address + "/login"
    assert window.faults() == []
    keep(window, f"{size}-light", "/login")
    page.get_by_label("Token").fill("not the token")
    page.keyboard.press("Enter")
    expect(page.get_by_text("This is not the token.")).to_be_visible()
    assert window.faults() == []
    page.get_by_label("Token").fill(server.token)
    page.keyboard.press("Enter")
    page.wait_for_url(window.address + "/")


def test_a_keyboard_is_enough(server: Server, visit: Visits) -> None:
    """From the first page to a version, and to a rollback that is written down; and every stop on the way can be seen."""
    window = visit.open(server, name="Keys")
    page = window.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    tab_to(window, "nav a[href='/versions']")
    page.keyboard.press("Enter")
    page.wait_for_url(window.address + "/versions")
    tab_to(window, "main a[href='/versions/v2']")
    page.keyboard.press("Enter")
    page.wait_for_url(window.address + "/versions/v2")
    tab_to(window, "details.act:has(form[action='/act/versions/rollback']) > summary")
    page.keyboard.press("Enter")
    tab_to(window, "form[action='/act/versions/rollback'] input[name=reason]")
    page.keyboard.type("by keys alone")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    assert window.faults() == []
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert window.page.url == window.address + "/versions/v2", "it was left as it is"
    page.keyboard.press("Enter")
    tab_to(window, "dialog button.danger")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("by keys alone", timeout=PATIENCE_MS)
    (change,) = server.get("/api/v1/changes").json()
    assert (change["who"], change["reason"]) == ("Keys", "by keys alone")


def test_pages_work_without_scripts(server: Server, visits: Visits) -> None:
    """All is read and sent without a script; only what is live stands still."""
    window = visits.open(server, scripts=False)
    page = window.go("/versions/v4")
    page.locator("details.act", has=page.locator("form[action='/act/versions/pin']")).locator("summary").click()
    page.locator("form[action='/act/versions/pin']").get_by_label("Reason").fill("for the talk")
    page.locator("form[action='/act/versions/pin'] button").click()
    expect(page.get_by_role("status").first).to_contain_text("v4")
    visits.close()


def tab_to(window: Visit, selector: str, most: int = 200) -> None:
    """Press Tab until the element that this selects has the focus; each that has it on the way must be seen to have it."""
    page = window.page
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("wanted => document.activeElement.matches(wanted)", selector):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle !== 'none'"), (
                f"{selector} is not seen to have the focus"
            )
            return
    pytest.fail(f"{selector} is not reached by {most} times Tab")


def keep(window: Visit, look: str, path: str) -> None:
    if PICTURES:
        name = re.sub(r"[^a-z0-9]+", "-", path.partition("?")[0].lower()).strip("-") or "now"
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        window.page.screenshot(path=Path(PICTURES) / f"{name}-{look}.png")
