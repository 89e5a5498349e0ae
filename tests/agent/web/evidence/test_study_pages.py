"""Studies in a folder: how far each is, its report as tables, and nothing of theirs that is markup or runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.agent.studies.report.made_studies import CLAIMS, FIRST, keep_study, stream_cells
from tests.agent.web.evidence.visitor import Visitor, visitor

from perdure.agent.studies.report.find_study import load_study
from perdure.agent.studies.report.report_data import level, report_data
from perdure.agent.studies.study_file import cell_counts, open_study
from perdure.agent.web.evidence.study_parts import MOST_CHARACTERS, PARTS
from perdure.memory.errors import InputError

ARM = "<b>replay</b>"


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    summary = {"claims": list(CLAIMS), "ok": True, "notes": [{"a": "<script>alert(1)</script>\x1b[31m"}]}
    keep_study(tmp_path / "studies" / "made", stream_cells({"naive": 0.5, ARM: 0.1}), summary, failed="out of <script>memory</script>")
    return tmp_path / "studies"


@pytest.fixture
def student(studies: Path, tmp_path: Path) -> Visitor:
    """Also of a home that has no store: studies need none."""
    config = tmp_path / "perdure.toml"
    config.write_text(f"[web]\nstudies = '{studies}'\n")
    (tmp_path / "home").mkdir()
    return visitor(tmp_path / "home", config)


def test_the_list_has_what_is_done_failed_and_left(student: Visitor, studies: Path) -> None:
    with open_study(studies / "made") as file:
        file.plan([*file.results(), "one to come"])
    page = student.get("/studies")
    assert page.status == 200
    row = page.row("made of a file")
    assert row[:4] == ["failed", "6", "1", "1"]
    assert page.row("lives homes over fifty jobs, simulated with the real planner and gate: what is kept, what is lost, where it stalls")[
        0
    ] == ("not run")
    assert page.words.index("made") < page.words.index("lives homes"), "those that were run come first"


def test_a_study_that_cannot_be_read_says_so_beside_the_others(student: Visitor, studies: Path) -> None:
    for name, content in (("text", b"no database at all"), ("torn", (studies / "made" / "study.db").read_bytes()[:5000])):
        (studies / name).mkdir()
        (studies / name / "study.db").write_bytes(content)
    page = student.get("/studies")
    assert page.status == 200
    assert "file is not a database" in page.words
    assert page.row("made of a file")[0] == "failed"
    assert student.get("/studies/text").status == 400
    (studies / "begun").mkdir()
    (studies / "begun" / "study.db").touch()
    assert "It has no cell yet" in student.get("/studies/begun").words


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_tables_without_styles_scripts_and_foreign_markup(student: Visitor, part: str) -> None:
    page = student.get(f"/studies/made?part={part}")
    assert page.status == 200
    report = page.text[page.text.index('<div class="report">') : page.text.index("</main>")]
    assert len(report) < MOST_CHARACTERS + 1000
    for bad in ("style=", "<script", "<img", "<b>replay", "\x1b", "onerror"):
        assert bad not in report, bad
    assert "<table" in report


def test_the_numbers_are_those_of_the_report(student: Visitor, studies: Path) -> None:
    data = report_data(load_study(studies / "made"))
    found = level(data.of("", "naive"), 2, FIRST)
    assert found is not None
    page = student.get("/studies/made?part=matrix").text
    naive = page[page.index("<caption>naive") :]
    row = re.search(
        r'<th scope="row">2: door-code<td[^>]*><i class="?(?:down)?"?[^>]*></i>([\d.]+)|2: door-code.*?</i>([\d.]+)', naive, re.DOTALL
    )
    assert row is not None
    assert float(row[1] or row[2]) == pytest.approx(found.value, abs=0.005)
    overview = student.get("/studies/made").words
    assert "naive - replay > 0 holds" in overview
    assert "6 cells done, 1 failed, 0 left" in overview
    assert "out of <script>memory</script>" in student.get("/studies/made?part=study").words


def test_a_part_is_worked_out_anew_when_the_study_goes_on(student: Visitor, studies: Path) -> None:
    assert "runs 6 with seeds 0, 1, 2" in student.get("/studies/made").words
    keep_study(studies / "made", stream_cells({"naive": 0.5}, seeds=5))
    assert "runs 8 with seeds 0 to 4" in student.get("/studies/made").words


@pytest.mark.parametrize("name", ["..", "..%2f..%2fetc", "none", "made%2f..%2fmade", "lives", "%00", "made.toml"])
def test_only_studies_of_the_folder_are_found(student: Visitor, name: str) -> None:
    assert student.get(f"/studies/{name}").status == 404


def test_an_unknown_part_is_not_found(student: Visitor) -> None:
    assert student.get("/studies/made?part=../../etc").status == 404


def test_counts_are_those_of_the_cells_that_the_study_consists_of_now(tmp_path: Path) -> None:
    folder = keep_study(tmp_path / "s", stream_cells({"naive": 0.5}), failed="no")
    with open_study(folder) as file:
        kept = [name for name in file.results() if "seed 0" in name]
        file.plan([*kept, "later"])
    counts = cell_counts(folder)
    assert (counts.done, counts.failed, counts.left) == (1, 0, 1)
    assert counts.last is not None
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "study.db").write_bytes(Path(__file__).read_bytes())
    with pytest.raises((InputError, RuntimeError)):
        cell_counts(tmp_path / "other")
