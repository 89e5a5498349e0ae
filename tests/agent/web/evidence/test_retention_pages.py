"""The heat maps show what the pairs and the panel say, and each score leads to both answers behind it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.agent.web.evidence.judged_home import HOSTILE_NAME, Judged
from tests.agent.web.evidence.visitor import Visitor, visitor

from perdure.agent.web.evidence.heat_rows import FEWEST_VERSIONS, MOST_CELLS, heat_rows, versions_that_fit
from perdure.learners.panel.panel_items import load_panel
from perdure.memory.environments import register
from perdure.memory.json_value import Document
from perdure.memory.store import create_store, open_store
from perdure.memory.versions import add_initial


def scores(home: Path, gate: int, environment: str) -> tuple[float, float, int]:
    """Mean of the candidate, mean difference, and number of the pairs."""
    with open_store(home) as store:
        [row] = store.rows(
            """
            SELECT avg(candidate_score) AS score, avg(difference) AS difference, count(*) AS n
            FROM pair WHERE gate = ? AND environment = ?
            """,
            (gate, environment),
        )
    return row["score"], row["difference"], row["n"]


def test_a_cell_has_the_mean_of_its_pairs_and_the_change_against_the_anchor(looking: Visitor, judged: Judged) -> None:
    page = looking.get("/retention?which=all")
    assert page.status == 200
    cells = page.row("v3 rejected")
    score, difference, _ = scores(judged.home, judged.gates["v3"].gate, "old3")
    assert cells[3] == f"{score:.2f} {difference:+.2f}"
    assert difference < -0.5
    assert cells[0].split()[1] == "+0.00"


def test_the_anchor_is_marked_in_a_word_and_has_no_change(looking: Visitor) -> None:
    cells = looking.get("/retention").row("v1")
    assert re.fullmatch(r"\d\.\d\d ⚑ anchor", cells[0]), cells
    assert cells[5] == "0.00 -1.00", "it never learned `new`, whose anchor is v2 since its promotion"


def test_versions_that_never_served_are_shown_on_demand(looking: Visitor) -> None:
    served, every = (looking.get(path).words for path in ("/retention", "/retention?which=all"))
    assert "v3" not in served
    assert "v5 candidate" in every
    assert looking.get("/retention?which=best").status == 422


def test_what_lost_more_than_its_limit_is_forgotten(looking: Visitor) -> None:
    page = looking.get("/retention?which=all")
    panel = page.text[page.text.index("On the capability panel") :]
    rows = re.findall(r"<tr>(.*?)</tr>", panel, re.DOTALL)
    assert ["FORGOTTEN" in row for row in rows[1:]] == [True, False, False, False]  # v3, v2, v1, v0
    assert rows[1].count("FORGOTTEN") == 1
    assert re.search(r"0\.50</a>\s*<br><b[^>]*>FORGOTTEN", rows[1])
    assert re.search(r'title="0\.500, \d+ items, -0\.200 against the base model', rows[1])


def test_a_skill_leads_to_its_items_those_that_lost_most_first(looking: Visitor, judged: Judged) -> None:
    assert "/retention/v3/skill?name=arithmetic" in looking.get("/retention?which=all").text
    page = looking.get("/retention/v3/skill?name=arithmetic")
    [skill] = [one for one in load_panel() if one.name == "arithmetic"]
    assert f"over {len(skill.questions)} items" in page.words
    assert "-0.200 FORGOTTEN" in page.words
    first = skill.questions[0]
    assert page.row(first.id) == [first.prompt.replace("\n", "\\n"), first.right, "0.7", "0.7", "0.5", "-0.20"]
    whole = looking.get("/retention/v2/skill?name=neutral_text")
    assert (whole.status, "FORGOTTEN" in whole.words) == (200, False)
    assert looking.get("/retention/v3/skill?name=none").status == 404
    assert looking.get("/retention/v9/skill?name=arithmetic").status == 404


def test_an_item_that_is_not_in_the_panel_any_more_keeps_its_score(acting: Visitor) -> None:
    with open_store(acting.home) as store:
        [row] = store.rows("SELECT min(item) AS item FROM panel_score WHERE skill = 'arithmetic'")
        store.conn.execute("UPDATE panel_score SET content = 'older' WHERE version = 'v3' AND item = ?", (row["item"],))
    assert "no longer in the panel" in acting.get("/retention/v3/skill?name=arithmetic").words


def test_a_score_leads_to_its_gate_its_pairs_and_both_answers(looking: Visitor, judged: Judged) -> None:
    map_ = looking.get("/retention?which=all")
    assert "/retention/v3?environment=old3" in map_.text
    cell = looking.get("/retention/v3?environment=old3")
    score, difference, n = scores(judged.home, judged.gates["v3"].gate, "old3")
    assert f"score {score:.2f}" in cell.words
    assert f"over {n} held-out seeds" in cell.words
    gate = judged.gates["v3"].gate
    row = cell.row(f"gate {gate}")
    assert row[:4] == ["reject", "the candidate", "v1", str(n)]
    assert row[6].startswith(f"{difference:+.2f} ")
    low, high = (float(edge) for edge in re.findall(r"[+-]\d\.\d\d", row[6])[1:])
    assert -1 <= low < difference < high < 0
    assert f"/gates/{gate}?environment=old3#pairs" in cell.text
    pairs = looking.get(f"/gates/{gate}?environment=old3")
    with open_store(judged.home) as store:
        [pair] = store.rows("SELECT seed FROM pair WHERE gate = ? AND environment = 'old3' AND difference = -1 LIMIT 1", (gate,))
    assert pairs.row(str(pair["seed"]))[:3] == ["0.00", "1.00", "-1.00"]
    answers = looking.get(f"/versions/v3/against/v1?environment=old3&seed={pair['seed']}")
    assert answers.status == 200
    assert "They first differ in turn 2, at token 2 of the answer." in answers.words
    assert "answer 2: wrong" in answers.words
    assert "answer 2: right" in answers.words


def test_a_reference_has_its_cell_from_the_gates_of_others(looking: Visitor, judged: Judged) -> None:
    cell = looking.get("/retention/v1?environment=old3")
    with open_store(judged.home) as store:
        gates = [row["gate"] for row in store.rows("SELECT DISTINCT gate FROM pair WHERE environment = 'old3' AND reference = 'v1'")]
    assert len(gates) == 3
    for gate in gates:
        assert cell.row(f"gate {gate}")[1] == "the reference"


@pytest.mark.parametrize(
    "path",
    ["/retention/v9?environment=old3", "/retention/v3?environment=none", "/retention/..%2f..%2fetc?environment=old3", "/retention/v3/x"],
)
def test_unknown_names_are_not_found(looking: Visitor, path: str) -> None:
    assert looking.get(path).status == 404


def test_a_home_without_gates_says_so(tmp_path: Path) -> None:
    with create_store(tmp_path / "home") as store:
        register(store, HOSTILE_NAME)
    nothing = visitor(tmp_path / "home").get("/retention")
    assert nothing.status == 200
    assert "There is no version yet" in nothing.words
    with open_store(tmp_path / "home") as store:
        add_initial(store, "tiny", "hash")
    assert "No version was scored on held-out seeds yet" in visitor(tmp_path / "home").get("/retention").words


def cell_document(version: str, score: float | None, *, anchor: bool = False, gates: list[Document] | None = None) -> Document:
    return {
        "version": version,
        "environment": "e",
        "score": score,
        "low": 0.0,
        "high": 1.0,
        "n": 4,
        "is_anchor": anchor,
        "dev": {"score": 0.25, "seeds": 8, "temperature": 1.0},
        "gates": gates or [],
    }


def test_the_change_is_over_pairs_if_a_gate_had_the_anchor_as_reference_else_over_scores() -> None:
    gates = [{"reference": "old", "difference": 0.9}, {"reference": "a", "difference": -0.2}]
    document = {
        "versions": [{"name": name, "state": "retired", "parent": None, "created": ""} for name in ("a", "b", "c", "d")],
        "environments": [{"environment": "e", "short": "e", "critical": False, "retired": False, "anchor": "a"}],
        "cells": [
            cell_document("a", 0.5, anchor=True),
            cell_document("b", 0.75, gates=gates),
            cell_document("c", 0.75, gates=gates[:1]),
            cell_document("d", None),
        ],
        "skills": [],
        "panel": [],
    }
    found = {row.version["name"]: row.cells[0] for row in heat_rows(document)}
    assert [*found] == ["d", "c", "b", "a"]
    assert [(cell.change, cell.paired) for cell in found.values() if cell] == [(-0.25, False), (0.25, False), (-0.2, True), (None, False)]
    d = found["d"]
    assert d is not None
    assert (d.score, d.is_dev, d.low) == (0.25, True, None)


def test_a_page_has_room_for_fewer_versions_with_many_environments() -> None:
    assert versions_that_fit(0, 40) == 40
    assert versions_that_fit(MOST_CELLS // 10, 40) == 10
    assert versions_that_fit(10**6, 40) == FEWEST_VERSIONS
