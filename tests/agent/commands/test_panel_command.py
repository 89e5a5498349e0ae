"""`perdure panel`: what it prints of scores that are known, an operator's items, and a real model from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.agent.conftest import Call
from tests.learners.panel.panel_files import HEADER, SKY, SNOW, written
from tests.tiny_models import tiny_llama

from perdure.agent.show.panel_bars import bar, panel_lines, print_panel
from perdure.learners.panel.panel_items import load_panel
from perdure.learners.panel.panel_limits import BOTH, skill_scores
from perdure.memory.contracts.panel_results import PanelResult, SampledScores
from perdure.memory.store import open_store

Known = Callable[[str, str], float]
"""The score of a version in a skill."""


def know(home: Path, score: Known) -> None:
    """Write scores of all versions, as a job would."""
    with open_store(home) as store, store.write() as conn:
        for version in ("v0", "v1", "v2", "v3"):
            for skill in load_panel(home):
                for item in skill.items:
                    measure = "choice" if skill.questions else "cross_entropy"
                    row = (version, skill.name, item.id, measure, score(version, skill.name), item.content, "scripted")
                    conn.execute(
                        "INSERT INTO panel_score (version, skill, item, measure, score, content, numerics) VALUES (?, ?, ?, ?, ?, ?, ?)",
                        row,
                    )


def test_a_version_whose_scores_are_known_is_shown_at_once(perdure: Call, home: Path) -> None:
    know(home, lambda version, skill: 0.4 if (version, skill) == ("v2", "reading") else 0.5)
    held = perdure("panel", "--json")
    assert (held.code, held.err) == (0, "")
    found = json.loads(held.out)
    assert (found["version"], found["before"], found["base"], found["ok"], found["forgotten"]) == ("v1", "v0", "v0", True, [])
    assert set(found["skills"]) == {*(skill.name for skill in load_panel()), BOTH}
    lost = perdure("panel", "v2", "--json")
    assert lost.code == 1
    found = json.loads(lost.out)
    assert (found["version"], found["before"], found["ok"], found["forgotten"]) == ("v2", "v0", False, ["reading"])
    skill = found["skills"]["reading"]
    assert (skill["base"], skill["before"], skill["version"]) == (pytest.approx(0.5), pytest.approx(0.5), pytest.approx(0.4))
    assert (skill["limit"], skill["lost_against"], skill["measure"]) == (0.05, ["before", "base"], "choice")
    assert perdure("panel", "v0").code == 0
    assert perdure("--home", str(home), "panel", "show", "v2").code == 1


def test_status_tells_where_the_serving_version_stands(perdure: Call, home: Path) -> None:
    assert json.loads(perdure("status").out)["panel"] is None
    know(home, lambda version, skill: 0.4 if (version, skill) == ("v1", "reading") else 0.5)
    panel = json.loads(perdure("status").out)["panel"]
    assert (panel["version"], panel["forgotten"], panel["kl_old_factor"]) == ("v1", ["reading"], 2.0)


def test_an_unknown_version_is_refused_before_anything_starts(perdure: Call, home: Path) -> None:
    refused = perdure("panel", "v9")
    assert (refused.code, refused.out) == (2, "")
    assert "no version 'v9'" in refused.err
    elsewhere = perdure("--home", "nowhere", "panel", "v1")
    assert elsewhere.code == 2
    assert "no version 'v1': there is no home nowhere yet" in elsewhere.err
    assert perdure("panel", "v1", "--scores", "most").code == 2


def test_an_operators_items_become_part_of_the_panel(perdure: Call, home: Path, tmp_path: Path) -> None:
    many = [{**SNOW, "id": f"colours-{n}", "prompt": f"What colour is snow in year {n}?"} for n in range(10, 30)]
    file = written(tmp_path, [HEADER, *many], "mine")
    added = perdure("panel", "add", str(file))
    assert (added.code, added.out) == (0, "colours is part of the panel now, with 20 items.\n")
    assert json.loads(perdure("panel", "add", str(file), "--json").out) == {"skill": "colours", "items": 20}
    know(home, lambda version, skill: 0.5)
    assert json.loads(perdure("panel", "v2", "--json").out)["skills"]["colours"]["items"] == 20
    bad = perdure("panel", "add", str(written(tmp_path, [HEADER, SKY, {**SKY, "id": "colours-9"}], "mine")))
    assert bad.code == 2
    assert bad.err == f"perdure: {file}, line 3: the prompt is that of line 2 too\n"
    assert perdure("--home", "other", "panel", "add", str(file)).code == 2
    assert not Path("other").exists()
    (home / "panel" / "colours.jsonl").write_text("oops\n")
    broken = perdure("panel", "v2")
    assert broken.code == 2
    assert "colours.jsonl, line 1 is not JSON" in broken.err
    assert json.loads(perdure("status").out)["panel"]["ok"], "status shows the skills that come with Perdure"


SUMS = skill_scores("sums", "choice", [[0.6, 0.6, 0.5]], {"strict": SampledScores(items=9, base=0.5, before=0.5, version=0.25, kept=0.5)})
TEXTS = skill_scores("texts", "cross_entropy", [[3.0, 3.1, 3.2]])
HELD = skill_scores("world", "choice", [[1.0, 1.0, 0.98]])


def test_bars_say_what_is_forgotten() -> None:
    lines = panel_lines(PanelResult(version="v3", before="v1", base="v0", skills={"sums": SUMS, "texts": TEXTS, "world": HELD}))
    assert [line.split() for line in lines] == [
        ["sums", "base", ".60", "█" * 19 + "▎"],
        ["v1", ".60", "█" * 19 + "▎"],
        ["v3", ".50", "█" * 16, "FORGOTTEN", "against", "v1", "and", "the", "base", "model"],
        ["texts", "base", "3.00", "█" * 30],
        ["v1", "3.10", "█" * 31],
        [
            "v3",
            "3.20",
            "█" * 32,
            *["FORGOTTEN", "against", "v1", "and", "the", "base", "model", "(nats", "a", "token,", "less", "is", "better)"],
        ],
        ["world", "base", "1.00", "█" * 32],
        ["v1", "1.00", "█" * 32],
        ["v3", ".98", "█" * 31 + "▍"],
    ]


def test_versions_that_are_the_same_have_one_bar() -> None:
    of_first = panel_lines(PanelResult(version="v1", before="v0", base="v0", skills={"sums": SUMS}))
    assert [line.split()[-9:] for line in of_first][-1][-5:] == ["FORGOTTEN", "against", "the", "base", "model"]
    assert len(of_first) == 2
    assert len(panel_lines(PanelResult(version="v0", before="v0", base="v0", skills={"sums": SUMS}))) == 1
    assert bar(skill_scores("none", "choice", [[0.0, 0.0, 0.0]]), 0.0) == ""


def test_greedy_answers_and_items_that_are_left_out_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    print_panel(PanelResult(version="v3", before="v1", base="v0", skills={"sums": SUMS}, left_out=2))
    out = capsys.readouterr().out
    assert "2 items do not fit into the context of the model, and are left out." in out
    assert ["sums", "strict", "9", "0.5", "0.5", "0.25", "0.5"] in [line.split() for line in out.splitlines()]


@pytest.mark.long
@pytest.mark.processes
def test_a_real_model_is_scored_once(process: Call, tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model", context=512)
    (tmp_path / "perdure.toml").write_text(f"model = '{model}'\n")
    first = process("panel", "--json")
    assert first.code == 0, first.err
    found = json.loads(first.out)
    assert (found["version"], found["before"], found["ok"]) == ("v0", "v0", True)
    assert all(0 < skill["version"] < 1 or skill["measure"] == "cross_entropy" for skill in found["skills"].values())
    again = process("panel", "v0", "--json")
    assert json.loads(again.out) == found
    with open_store(tmp_path / ".perdure") as store:
        assert len(store.rows("SELECT id FROM job")) == 1
