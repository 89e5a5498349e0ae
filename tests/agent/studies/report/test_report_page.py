"""The page of a study: what stands on it, that it needs nothing else, and that it holds together as HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.agent.studies.report.made_studies import CLAIMS, FIRST, keep_study, stream_cells

from perdure.agent.metrics.observation import Observation, StageFacts, to_document
from perdure.agent.studies.report.find_study import load_study
from perdure.agent.studies.report.report_data import check_asked, report_data
from perdure.agent.studies.report.report_page import report_page
from perdure.memory.errors import InputError
from perdure.memory.json_value import Document

ARMS = {"naive": 0.5, "replay": 0.1, "gated": 0.0}
OPTIONAL = {"tr", "td", "th", "li", "dt", "dd"}
"""Elements whose end may be left out."""
VOID = {"meta", "img"}


def page_of(folder: Path, cells: dict[str, Sequence[Document]], summary: Document | None = None, *, with_plots: bool = False) -> str:
    study = load_study(keep_study(folder / "made", cells, summary))
    return report_page(report_data(study), with_plots=with_plots, made_by="abc1234")


class _Elements(HTMLParser):
    """Checks that elements are closed in order, and collects what the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.refers: list[str] = []
        self.unnamed: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.refers += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if (tag == "img" and not found.get("alt")) or (found.get("role") == "img" and not found.get("aria-label")):
            self.unnamed.append(tag)
        if tag not in OPTIONAL | VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in OPTIONAL | VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in OPTIONAL:
            assert self.open.pop() == tag


def elements(page: str) -> _Elements:
    found = _Elements()
    found.feed(page)
    assert found.open == []
    return found


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)">', page)


def row_of(page: str, section: str, name: str) -> list[str]:
    """The texts of the cells of the first row with this name in a section."""
    (inside,) = re.findall(rf'<section id="{section}">(.*?)</section>', page, re.DOTALL)
    row = next(row for row in re.split("<tr>|</tbody>", inside) if re.match(rf'<th scope="row"[^>]*>{re.escape(name)}(<|$)', row))
    return [re.sub(r"<[^>]*>", " ", cell).strip() for cell in re.split(r"<t[dh][^>]*>", row)[1:]]


def test_the_page_has_every_part_and_needs_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = page_of(tmp_path, stream_cells(ARMS), {"claims": list(CLAIMS)}, with_plots=True)
    assert sections(page) == [
        *("claims", "tradeoff", "metrics", "matrix", "curves", "divergence", "gate", "panel", "cost", "formulas"),
    ]
    found = elements(page)
    assert not {"script", "link", "iframe"} & found.tags
    assert [target for target in found.refers if not target.startswith(("#", "data:"))] == []
    assert {target[1:] for target in found.refers if target.startswith("#")} <= set(found.ids)
    assert found.unnamed == []
    assert len(found.ids) == len(set(found.ids))
    assert "@import" not in page
    assert "url(http" not in page


def test_without_plots_all_numbers_are_there(tmp_path: Path) -> None:
    page = page_of(tmp_path, stream_cells(ARMS))
    assert "Drawn without matplotlib" in page
    assert "svg" not in elements(page).tags
    assert sections(page) == ["tradeoff", "metrics", "matrix", "divergence", "gate", "panel", "cost", "formulas"]


def test_every_number_has_its_interval_and_n(tmp_path: Path) -> None:
    """Updates are 24 in each run; seconds 40, 42 and 44: t(.975, 2) = 4.303 times 2 / sqrt(3) is 4.97."""
    page = page_of(tmp_path, stream_cells(ARMS))
    assert [" ".join(cell.split()) for cell in row_of(page, "metrics", "updates ↓")[1:]] == ["24 n 3"] * 3
    assert " ".join(row_of(page, "cost", "naive")[1].split()) == "24 n 3"
    assert "42 <small>37 to 47, n 3</small>".replace(" <", "<") in page
    one = page_of(tmp_path / "one", stream_cells({"naive": 0.5}, seeds=1))
    assert " ".join(row_of(one, "metrics", "updates ↓")[1].split()) == "24 n 1"
    assert re.search(r"0\.30<small>\S+ to \S+, 10 items</small>", one)


def test_a_skill_beyond_its_limit_is_forgotten(tmp_path: Path) -> None:
    page = page_of(tmp_path, stream_cells(ARMS, items=100))
    (panel,) = re.findall(r'<section id="panel">(.*?)</section>', page, re.DOTALL)
    tables = dict(re.findall(r"<caption>(\w+)[^<,]*: [^<]*</caption>(.*?)</table>", panel, re.DOTALL))
    forgotten = {
        skill: [re.sub(r"<.*|\n", "", row.split(">", 1)[1]) for row in inside.split("<tr>") if "FORGOTTEN" in row]
        for skill, inside in tables.items()
    }
    assert "naive" in forgotten["arithmetic"]
    assert "naive" in forgotten["refusal"]
    assert "base" not in forgotten["arithmetic"]
    (text,) = re.findall(r"<caption>(neutral text: cross-entropy, limit 0\.05)</caption>", panel)
    assert text


def test_a_gate_has_its_verdicts_and_reasons(tmp_path: Path) -> None:
    page = page_of(tmp_path, stream_cells(ARMS))
    counts = {arm: row_of(page, "gate", arm)[1:5] for arm in ARMS}
    assert counts == {"naive": ["6", "3", "3", "0"], "replay": ["6", "6", "0", "0"], "gated": ["6", "6", "0", "0"]}
    assert row_of(page, "gate", "naive, seed 0")[1:] == ["✓ first-word", "✗ door-code"]
    assert "door-code (-.3) fell" in page


def test_a_study_with_one_stage_has_one_matrix_and_its_matched_gain(tmp_path: Path) -> None:
    rows: list[Observation | StageFacts] = []
    for arm, last in (("sft", 0.0), ("grpo", 0.6)):
        for seed in range(2):
            rows.append(StageFacts(arm=arm, order="words", seed=seed, stage=1, targets=(FIRST,), updates=4))
            for update, gained, kept in ((0, 0.0, 0.6), (2, 0.4, (0.6 + last) / 2), (4, 0.8, last)):
                stage, at = (0, None) if update == 0 else (1, None if update == 4 else update)
                rows += [
                    Observation(
                        arm=arm, order="words", seed=seed, stage=stage, update=at, subject=name, item="1", measure="sampled", score=score
                    )
                    for name, score in ((FIRST, gained), ("perdure:sum", kept))
                ]
    page = page_of(tmp_path, {"all": [to_document(row) for row in rows]}, {"matched_gain": {"words": 0.4}})
    assert page.count('<table class="heat">') == 1
    assert "drop where the gain is 0.40" in page
    assert [cell.split()[0] for cell in row_of(page, "tradeoff", "sft")[1:]] == ["+0.80", "+0.60", "+0.30", "2"]
    assert [cell.split()[0] for cell in row_of(page, "tradeoff", "grpo")[1:]] == ["+0.80", "0.00", "0.00", "2"]


def test_what_failed_and_what_was_noted_is_told(tmp_path: Path) -> None:
    note = StageFacts(arm="grpo", seed=0, stage=1, targets=(FIRST,), note="not comparable: it misses the matched gain")
    folder = keep_study(tmp_path / "made", {"one": [to_document(note)]}, failed="the machine has no memory left")
    page = report_page(report_data(load_study(folder)), with_plots=False, made_by="abc")
    assert "1: what they would have shown is missing below" in page
    assert "it has not come to its end" in page
    assert "the machine has no memory left" in page
    assert "not comparable: it misses the matched gain" in page


def test_a_study_without_observations_shows_its_summary_and_its_drawings(tmp_path: Path) -> None:
    summary = {
        "study": "lives",
        "lives": 10,
        "rows": [
            {"row": "good", "promotions": 27.8},
            {"row": "bad", "at_end": {"loss": {"mean": 0.25, "low": 0.125, "high": 0.5, "n": 4}}},
        ],
        "claims": [{"about": "good is better", "holds": True}],
        "ok": True,
    }
    folder = keep_study(tmp_path / "lives", {"good, life 0": [{"row": "good"}]}, summary)
    (folder / "curve.svg").write_text("<svg/>")
    page = report_page(report_data(load_study(folder)), with_plots=False, made_by="abc")
    assert sections(page) == ["study"]
    assert row_of(page, "study", "good") == ["good", "27.800", "–"]
    assert row_of(page, "study", "bad") == ["bad", "–", "0.250 (0.125 to 0.500, n 4)"]
    assert row_of(page, "study", "good is better") == ["good is better", "yes"]
    assert 'alt="curve"' in page
    elements(page)


def test_texts_of_a_study_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = page_of(tmp_path, stream_cells({'<script>alert("x")</script>': 0.5, "a & b": 0.1}), with_plots=True)
    assert "script" not in elements(page).tags
    assert "&lt;script&gt;" in page
    assert "a &amp; b" in page


def test_the_same_study_gives_the_same_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    one, again = (page_of(tmp_path / name, stream_cells({"naive": 0.5}), with_plots=True) for name in ("one", "again"))
    assert one == again


def test_an_arm_or_a_measure_that_is_not_there_is_named(tmp_path: Path) -> None:
    data = report_data(load_study(keep_study(tmp_path / "made", stream_cells(ARMS, seeds=1))), measure="strict")
    assert data.runs[0].main.matrix.at(0, "arithmetic") == 0.6
    check_asked(data, against="naive", measure="strict")
    with pytest.raises(InputError, match="no arm sft: the study made has naive, replay, gated"):
        check_asked(data, against="sft", measure=None)
    with pytest.raises(InputError, match="no measure nll: the study made has sampled, "):
        check_asked(data, against=None, measure="nll")
