"""Each token is shown with what it says, if the tokenizer that it was sampled with is there; else by its id alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.agent.web.evidence.visitor import Visitor
from tokenizers import Tokenizer, decoders, models

from perdure.agent.web.evidence import token_texts
from perdure.agent.web.evidence.token_texts import MOST_CHARACTERS, MOST_SHOWN, TokenTexts, that_fit
from perdure.memory.store import create_store, open_store
from perdure.memory.versions import add_initial

WORDS = {"answer": 72, " 2": 82, ": right": 92, ": wrong": 99, "<|end|>": 62}
"""What the third turn of every answer of the judged home says."""
BAD = "</b><script>alert(4)</script>"
CHIP = re.compile(r'<span class="id [^"]*">(?:<b>([^<]*)</b> )?(\d+) <i>')


def tokenizer(folder: Path, words: dict[str, int]) -> None:
    folder.mkdir(exist_ok=True)
    made = Tokenizer(models.WordLevel(words, unk_token=next(iter(words))))
    made.decoder = decoders.Fuse()
    made.save(str(folder / "tokenizer.json"))


@pytest.fixture
def folder(acting: Visitor, tmp_path: Path) -> Path:
    """Where the model of the visited home is."""
    with open_store(acting.home) as store, store.write() as conn:
        conn.execute("UPDATE version SET base_model = ?", (str(tmp_path / "model"),))
    return tmp_path / "model"


def turn_of(home: Path, success: int) -> str:
    with open_store(home) as store:
        [row] = store.rows("SELECT id FROM episode WHERE version = 'v3' AND success = ? AND purpose = 'gate' LIMIT 1", (success,))
    return f"/episodes/{row['id']}/turns/2"


def test_what_each_token_says_stands_beside_it(acting: Visitor, folder: Path) -> None:
    tokenizer(folder, WORDS | {f"p{n}": n for n in range(10, 30)})
    page = acting.get(turn_of(acting.home, 0)).text
    assert CHIP.findall(page) == [("answer", "72"), (" 2", "82"), (": wrong", "99"), ("&lt;|end|&gt;", "62")]
    assert "What each says, its id, and the natural logarithm" in page
    prompt = re.findall(r'<span class="id heat-0"><b>p(\d+)</b> (\d+)</span>', page)
    assert len(prompt) == 10
    assert all(text == number for text, number in prompt)


def test_both_sides_have_it(acting: Visitor, folder: Path) -> None:
    tokenizer(folder, WORDS)
    with open_store(acting.home) as store:
        [row] = store.rows(
            "SELECT a.id AS a, b.id AS b FROM episode a JOIN episode b USING (environment, seed, member) "
            "WHERE a.version = 'v3' AND b.version = 'v1' AND a.success = 0 AND b.success = 1 AND a.purpose = 'gate' LIMIT 1"
        )
    page = acting.get(f"/versions/v3/against/v1?a_episode={row['a']}&b_episode={row['b']}").text
    assert [text for text, number in CHIP.findall(page) if number in ("99", "92")] == [": wrong", ": right"]


def test_of_another_tokenizer_nothing_is_believed(acting: Visitor, folder: Path) -> None:
    path = turn_of(acting.home, 0)
    alone = [("", "72"), ("", "82"), ("", "99"), ("", "62")]
    assert CHIP.findall(acting.get(path).text) == alone, "there is none"
    tokenizer(folder, {**WORDS, ": wrong": 98, ": well": 99})
    assert CHIP.findall(acting.get(path).text) == alone, "it has other words"
    (folder / "tokenizer.json").write_text("{}")
    assert CHIP.findall(acting.get(path).text) == alone, "it cannot be read"
    assert "Each id with the natural logarithm" in acting.get(path).text
    tokenizer(folder, WORDS)
    assert CHIP.findall(acting.get(path).text)[0] == ("answer", "72"), "it was repaired"


def test_a_token_is_text_on_one_line_whatever_it_says(acting: Visitor, folder: Path) -> None:
    words = {"answer 2: wrong": 72, "\x00\n\u202e\x1b[31m": 82, BAD: 99, "y" * 1000: 62}
    tokenizer(folder, words)
    page = acting.get(turn_of(acting.home, 0)).text
    shown = [text for text, _ in CHIP.findall(page)]
    assert shown == ["answer 2: wrong", "\\x00\\n\\u202e\\x1…", "&lt;/b&gt;&lt;script&gt;ale…", "y" * (MOST_SHOWN - 1) + "…"]
    assert "<script>alert" not in page


def test_texts_that_take_too_much_of_a_page_are_left_out() -> None:
    assert that_fit(None) is None
    assert that_fit(["a"] * MOST_CHARACTERS) == ["a"] * MOST_CHARACTERS
    assert that_fit(["<"] * (MOST_CHARACTERS // 4)) is not None
    assert that_fit(["<"] * (MOST_CHARACTERS // 4 + 1)) is None


def test_homes_and_files_without_one_have_no_texts(tmp_path: Path) -> None:
    with create_store(tmp_path / "home") as store:
        assert TokenTexts(store).of_answer([72], "answer") is None, "nothing has run"
        add_initial(store, str(tmp_path / "model"), "hash")
        tokenizer(tmp_path / "model", WORDS)
        known = TokenTexts(store)
        assert known.of_answer([72, 82], "answer 2") == ["answer", " 2"]
        assert known.of_answer([72, 10**9, 82], "answer 2") == ["answer", "", " 2"], "a token that it does not know"
        assert known.of_answer([72] * (token_texts.MOST_DECODED + 1), "answer") is None
        with (tmp_path / "model" / "tokenizer.json").open("ab") as file:
            file.truncate(token_texts.MOST_BYTES + 1)
        assert known.of_answer([72], "answer") is None
