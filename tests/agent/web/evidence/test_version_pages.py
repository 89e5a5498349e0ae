"""The tree, a version with its evidence, two of them on the same seeds, and what a person can do with one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.agent.web.evidence.judged_home import Judged
from tests.agent.web.evidence.visitor import Visitor, visitor

from perdure.agent.show.terminal import rounded
from perdure.memory.changes import list_changes
from perdure.memory.contracts.results import Leg
from perdure.memory.store import create_store, open_store
from perdure.memory.versions import add_candidate, add_initial, get_version, serving


def test_the_tree_names_every_parent_in_words_and_draws_a_line_to_it(looking: Visitor) -> None:
    page = looking.get("/versions")
    items = re.findall(r"<li class=\"(\w+)\">(.*?)</li>", page.text, re.DOTALL)
    told = [(state, " ".join(re.sub(r"<[^>]*>", " ", text).split())) for state, text in items]
    assert [(state, words.split()[0], words.partition("from ")[2][:2]) for state, words in told] == [
        ("candidate", "v5", "v1"),
        ("candidate", "v4", "v2"),
        ("rejected", "v3", "v2"),
        ("serving", "v2", "v1"),
        ("retired", "v1", "v0"),
        ("retired", "v0", ""),
    ]
    assert all(text.count("<circle") == 1 and 'aria-hidden="true"' in text for _, text in items)
    assert "v2 serves." in page.words
    assert "gate 2: reject" in told[2][1]


def test_older_versions_are_on_further_pages(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with create_store(home) as store:
        add_initial(store, "tiny", "hash")
        for n in range(1, 121):
            add_candidate(store, None, f"v{n}", "v0", f"h{n}", None, [], None)
    first = visitor(home).get("/versions")
    assert re.search(r"/versions\?before=v21\b", first.text)
    second = visitor(home).get("/versions?before=v21")
    assert re.findall(r'<b><a href="/versions/(v\d+)"', second.text) == [f"v{n}" for n in range(20, -1, -1)]
    assert visitor(home).get("/versions?before=v999").status == 404


def shown_wealth(page: str) -> dict[str, str]:
    """The number below each chart, by its caption."""
    found = re.findall(r'<figcaption>(.*?)</figcaption>.*?<p class="small"><b>(.*?)</b>', page, re.DOTALL)
    return {" ".join(re.sub(r"<[^>]*>", " ", caption).split()): number for caption, number in found}


@pytest.mark.parametrize("name", ["v2", "v3", "v4"])
def test_the_drawn_wealth_ends_at_the_stored_e_value(looking: Visitor, judged: Judged, name: str) -> None:
    evidence = judged.gates[name].evidence
    wealth = shown_wealth(looking.get(f"/versions/{name}").text)

    def number(leg: Leg | None) -> str:
        assert leg is not None
        assert leg.wealth is not None
        return rounded(leg.wealth)

    expected = {f"kept: {place} against {leg.reference}": number(leg) for place, leg in evidence.environments.items()}
    expected["kept together: all earlier ones"] = number(evidence.pooled)
    expected |= {f"gain: {place} against {leg.reference}": number(leg) for place, leg in evidence.trained.items()}
    assert wealth == expected
    assert shown_wealth(looking.get(f"/gates/{judged.gates[name].gate}").text) == expected


def test_the_curve_meets_the_line_where_the_test_passes(looking: Visitor) -> None:
    page = looking.get("/versions/v2").text
    figure = page[page.index("kept: old0") :]
    line = re.search(r'class="need"[^>]* y1="([\d.]+)"', figure)
    points = re.search(r'points="([^"]*)"', figure)
    assert line is not None
    assert points is not None
    heights = [float(point.split(",")[1]) for point in points[1].split()]
    assert heights[-1] <= float(line[1]) < min(heights[6:-1]), "above the line is a smaller y"
    assert heights[0] > heights[-1]


def test_the_panel_stands_beside_the_version_before_and_the_base(looking: Visitor) -> None:
    page = looking.get("/versions/v3")
    assert page.row("arithmetic") == ["0.70", "0.70", "0.50", "0.05", "FORGOTTEN against v2 and the base model"]
    assert page.row("grammar")[:3] == ["0.70", "0.70", "0.70"]
    assert "FORGOTTEN" not in looking.get("/versions/v2").text
    assert "Not scored on all of it yet" in looking.get("/versions/v5").words


def test_two_versions_on_the_same_seeds(looking: Visitor, judged: Judged) -> None:
    page = looking.get("/versions/v3/against/v1")
    with open_store(judged.home) as store:
        [row] = store.rows(
            """
            SELECT count(*) AS n, avg(candidate_score) AS a, avg(reference_score) AS b, avg(difference) AS d, sum(difference < 0) AS worse
            FROM pair WHERE gate = ? AND environment = 'old3'
            """,
            (judged.gates["v3"].gate,),
        )
    cells = page.row("old3")
    assert cells[:3] == [str(row["n"]), f"{row['a']:.2f}", f"{row['b']:.2f}"]
    assert cells[3].startswith(f"{row['d']:+.2f} ")
    assert cells[5] == str(row["worse"])
    turned = looking.get("/versions/v1/against/v3").row("old3")
    assert turned[3].startswith(f"{-row['d']:+.2f} ")
    assert looking.get("/versions/v3/against?other=v1").headers["location"] == "/versions/v3/against/v1"


def test_answers_that_are_the_same_say_so_and_other_answers_can_be_chosen(looking: Visitor, judged: Judged) -> None:
    with open_store(judged.home) as store:
        [pair] = store.rows(
            "SELECT seed FROM pair WHERE gate = ? AND environment = 'old0' AND difference = 0 AND reference_score = 1 LIMIT 1",
            (judged.gates["v3"].gate,),
        )
        seed = pair["seed"]
        ids = {
            name: [row["id"] for row in store.rows("SELECT id FROM episode WHERE version = ? AND seed = ? ORDER BY id", (name, seed))]
            for name in ("v3", "v1")
        }
    page = looking.get(f"/versions/v3/against/v1?environment=old0&seed={seed}")
    assert "Both saw and said the same, token for token." in page.words
    other = f"a_episode={ids['v3'][0]}&amp;b_episode={ids['v1'][1]}"
    assert other in page.text
    assert looking.get(f"/versions/v3/against/v1?{other.replace('&amp;', '&')}").status == 200


def test_episodes_that_are_not_of_these_versions_or_not_of_one_seed_are_not_compared(looking: Visitor, judged: Judged) -> None:
    with open_store(judged.home) as store:
        first, other = (
            row["id"] for row in store.rows("SELECT min(id) AS id FROM episode WHERE version = 'v1' GROUP BY seed ORDER BY 1 LIMIT 2")
        )
        [newest] = store.rows("SELECT max(id) AS id FROM episode WHERE version = 'v2' AND environment = 'old0'")
    assert looking.get(f"/versions/v3/against/v1?a_episode={first}&b_episode={other}").status == 404
    assert looking.get(f"/versions/v1/against/v1?a_episode={first}&b_episode={other}").status == 404
    assert looking.get(f"/versions/v1/against/v1?a_episode={first}&b_episode={first}").status == 200
    assert looking.get(f"/versions/v2/against/v1?a_episode={newest['id']}&b_episode=999999").status == 404
    assert looking.get("/versions/v3/against/v1?environment=old3&seed=5").status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/versions/v9",
        "/versions/v3/against/v9",
        "/versions/v9/against/v3",
        "/versions/v3/against?other=v9",
        "/versions/..%2f..%2fperdure.db",
        "/versions/%2e%2e",
        "/versions/v3%00",
        "/versions/' OR 1=1",
        "/gates/99",
    ],
)
def test_unknown_names_are_not_found(looking: Visitor, path: str) -> None:
    assert looking.get(path).status == 404


@pytest.mark.parametrize("path", ["/gates/x", "/gates/-1", f"/gates/{2**63}", f"/versions/v3/against/v1?environment=old3&seed={2**64}"])
def test_numbers_that_no_row_can_have_are_refused(looking: Visitor, path: str) -> None:
    assert looking.get(path).status == 422


def move(who: Visitor, what: str, version: str, expected: str, **more: str) -> tuple[int, str]:
    fields = {"version": version, "expected": expected, "key": f"{what}-{version}", "reason": "looked at its answers", **more}
    page = who.send(f"/act/versions/{what}", **fields)
    return page.status, page.headers.get("location", page.words)


def test_a_person_rolls_back_approves_rejects_and_pins_from_the_page(acting: Visitor) -> None:
    page = acting.get("/versions/v2").text
    assert re.search(r'name="version" value="v1"', page), "a rollback from the serving version names where it goes"
    assert re.search(r'name="expected" value="v2"', page)
    assert move(acting, "rollback", "v1", "v2")[0] == 303
    assert move(acting, "promote", "v4", "v1")[0] == 303
    assert move(acting, "reject", "v5", "v4")[0] == 303
    assert move(acting, "pin", "v3", "v4", pinned="true")[0] == 303
    with open_store(acting.home) as store:
        assert serving(store).name == "v4"
        assert get_version(store, "v5").state == "rejected"
        assert get_version(store, "v3").pinned
        changes = list_changes(store)
    assert [(one.what, one.reason) for one in reversed(changes)] == [
        (what, "looked at its answers") for what in ("version rollback", "version promote", "version reject", "version pin")
    ]
    assert all(one.via == "page" for one in changes)
    assert "looked at its answers" in acting.get("/versions/v4").words


def test_a_page_that_is_out_of_date_changes_nothing_and_says_why(acting: Visitor) -> None:
    status, words = move(acting, "rollback", "v0", "v1")
    assert status == 409
    assert "serves now, no longer v1" in words
    with open_store(acting.home) as store:
        assert serving(store).name == "v2"
        assert list_changes(store) == []


def test_a_form_needs_a_reason_and_the_mark_of_its_session(acting: Visitor) -> None:
    assert move(acting, "rollback", "v1", "v2", reason="")[0] == 422
    assert acting.send("/act/versions/rollback", version="v1", expected="v2", key="k", reason="r", csrf="x").status == 403
    with open_store(acting.home) as store:
        assert serving(store).name == "v2"


def test_only_what_a_version_allows_is_offered(looking: Visitor) -> None:
    offered = {
        name: set(re.findall(r'action="/act/versions/(\w+)"', looking.get(f"/versions/{name}").text)) for name in ("v2", "v3", "v4", "v1")
    }
    assert offered == {"v2": {"rollback", "pin"}, "v3": {"pin"}, "v4": {"promote", "reject", "pin"}, "v1": {"promote", "rollback", "pin"}}


def test_a_gate_of_an_earlier_release_is_shown_without_curves(acting: Visitor) -> None:
    with open_store(acting.home) as store:
        store.conn.execute("""UPDATE gate SET settings = '{"scope": "{}", "nmax": 5, "seeds_of": null}' WHERE id = 2""")
    page = acting.get("/gates/2")
    assert page.status == 200
    assert "Its terms are those of an earlier release" in page.words
    assert page.row("old3")[1] == "failed"
