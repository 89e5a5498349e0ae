"""Episodes to choose from, one as a conversation, one turn down to its tokens. Whatever they hold stays text, and the page small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.agent.web.evidence.judged_home import HOSTILE, HOSTILE_NAME, Judged
from tests.agent.web.evidence.visitor import Visitor, visitor

from perdure.agent.show.terminal import visible
from perdure.agent.web.evidence.answer_parts import AFTER, BEFORE, MOST_TOKENS, answer_parts
from perdure.memory.changes import list_changes
from perdure.memory.json_value import Document
from perdure.memory.store import create_store, open_store
from perdure.memory.trajectories.rewards import rewards_of

LARGEST = 300_000


def live(home: Path) -> list[int]:
    """The four live episodes: two of a long conversation, two with a very long observation."""
    with open_store(home) as store:
        return [row["id"] for row in store.rows("SELECT id FROM episode WHERE purpose = 'live' ORDER BY id")]


def listed(page: str) -> list[int]:
    return [int(found) for found in re.findall(r'<th scope="row"><a href="/episodes/(\d+)">', page)]


def test_a_list_is_filtered_by_what_is_asked(looking: Visitor, judged: Judged) -> None:
    long, long2, wide, wide2 = live(judged.home)
    name = "py:evil:%3Cscript%3Ealert(3)%3C/script%3E"
    assert listed(looking.get(f"/episodes?environment={name}").text) == [wide2, wide, long2, long]
    assert listed(looking.get("/episodes?purpose=live&outcome=failure&version=v2").text) == [wide2, wide, long2, long]
    assert listed(looking.get("/episodes?purpose=live&outcome=success").text) == []
    assert "None of these." in looking.get("/episodes?outcome=running").words
    assert listed(looking.get(f"/episodes?purpose=live&before={wide}").text) == [long2, long]
    assert listed(looking.get("/episodes?environment=&version=&purpose=&outcome=").text)[0] == wide2, "a form with nothing chosen"
    assert all(cell == "old0" for cell in re.findall(r'<td class="name">(.*?)</td>', looking.get("/episodes?environment=old0").text))


def test_further_pages_go_on_where_the_first_ends_and_keep_the_filter(looking: Visitor, judged: Judged) -> None:
    first = looking.get("/episodes?version=v1&purpose=gate")
    ids = listed(first.text)
    assert len(ids) == 50
    [older] = re.findall(r'href="(/episodes\?[^"]*)" rel="next"', first.text)
    assert older == f"/episodes?version=v1&amp;purpose=gate&amp;before={ids[-1]}"
    second = listed(looking.get(older.replace("&amp;", "&")).text)
    with open_store(judged.home) as store:
        rows = store.rows("SELECT id FROM episode WHERE version = 'v1' ORDER BY id DESC LIMIT 100")
    assert ids + second == [row["id"] for row in rows]


def test_an_episode_is_read_as_a_conversation(looking: Visitor, judged: Judged) -> None:
    with open_store(judged.home) as store:
        [row] = store.rows("SELECT id, seed, job FROM episode WHERE version = 'v3' AND success = 0 AND purpose = 'gate' LIMIT 1")
        members = store.rows('SELECT id FROM episode WHERE "group" = (SELECT "group" FROM episode WHERE id = ?)', (row["id"],))
    page = looking.get(f"/episodes/{row['id']}")
    words = page.words
    assert f"Episode {row['id']} no success" in words
    assert f"purpose gate, job {row['job']}" in words
    parts = [f"question {n} of seed {row['seed']}" for n in range(3)]
    parts.insert(3, "answer 2: wrong")
    assert [words.index(part) for part in parts] == sorted(words.index(part) for part in parts)
    for member in members:
        assert member["id"] == row["id"] or f'href="/episodes/{member["id"]}"' in page.text
    assert "4 tokens with log-probs after 10 of the prompt" in words


def test_a_turn_is_shown_down_to_its_tokens(looking: Visitor, judged: Judged) -> None:
    with open_store(judged.home) as store:
        [row] = store.rows("SELECT id, seed FROM episode WHERE version = 'v3' AND success = 0 AND purpose = 'gate' LIMIT 1")
    page = looking.get(f"/episodes/{row['id']}/turns/2")
    found = re.findall(r'<span class="id [^"]*">(\d+) <i>(-[\d.]+)</i></span>', page.text)
    assert found == [("72", "-0.25"), ("82", "-0.50"), ("99", "-3.00"), ("62", "-0.12")]
    assert f"Mean {(-0.25 - 0.5 - 3.0 - 0.125) / 4:.3f}." in page.words
    start = 10 + row["seed"] % 7
    assert " ".join(map(str, range(start, start + 10))) in page.words


def test_a_long_conversation_has_pages(looking: Visitor, judged: Judged) -> None:
    episode = live(judged.home)[0]
    shown: list[int] = []
    path = f"/episodes/{episode}"
    while path:
        page = looking.get(path)
        shown += [int(n) for n in re.findall(r'<li id="turn-(\d+)">', page.text)]
        path = next(iter(re.findall(r'href="([^"]*)" rel="next"', page.text)), "")
    assert shown == list(range(45))


def test_a_long_text_is_cut_with_a_way_to_the_whole(looking: Visitor, judged: Judged) -> None:
    episode = live(judged.home)[2]
    size = len(HOSTILE.encode()) + 300_000
    page = looking.get(f"/episodes/{episode}")
    assert f"cut: the whole observation , {size:,} bytes" in page.words
    assert len(page.text) < 30_000
    places = [0]
    ys = 0
    while places:
        part = looking.get(f"/episodes/{episode}/turns/0?seen={places.pop()}")
        text = re.findall(r'<pre class="text tall"[^>]*>(.*?)</pre>', part.text, re.DOTALL)[0]
        ys += text.count("y")
        places = [int(found) for found in re.findall(r'href="\?seen=(\d+)[^"]*">further', part.text)]
    assert ys == 300_000
    assert f"0 to 8,000 of {len(HOSTILE) + 300_000:,}" in looking.get(f"/episodes/{episode}/turns/0").words


def test_nothing_that_was_played_is_markup_or_moves_what_is_read(looking: Visitor, judged: Judged) -> None:
    first, *_ = live(judged.home)
    paths = [
        f"/episodes/{first}",
        f"/episodes/{first}/turns/3",
        "/episodes",
        f"/versions/v2/against/v2?a_episode={first}&b_episode={first}",
        "/retention?which=all",
        "/versions/v2",
        "/gates/1",
        "/versions/v3/against/v1",
    ]
    for path in paths:
        page = looking.get(path)
        assert page.status == 200, path
        for bad in ("<script>alert", "<img", "\x1b", "\u202e", "\x00", 'onerror=alert(2)>"', 'style="', "<style"):
            assert bad not in page.text, (path, bad)
        assert len(re.findall("<script", page.text)) == len(re.findall(r'<script src="/static/[\w./]+" defer></script>', page.text))
    assert looking.get(f"/episodes/{first}").words.count(visible(HOSTILE)) >= 4, "all of it can be read, also after the zero character"


def test_instructions_and_a_change_of_code_are_told(looking: Visitor, judged: Judged) -> None:
    words = looking.get(f"/episodes/{live(judged.home)[0]}").words
    assert f"Instructions of its task {visible(HOSTILE)}" in words
    assert "0ld the environment has other code now: this counts no more" in words


def test_ten_megabytes_of_signs_that_take_ten_characters_each_fit_into_a_page(acting: Visitor) -> None:
    first, second, *_ = live(acting.home)
    sign = "\U000e0001"
    with open_store(acting.home) as store:
        sql = "UPDATE turn SET observation = ?, action = ?, invalid = ? WHERE episode IN (?, ?)"
        store.conn.execute(sql, (sign * 200_000, sign * 200_000, sign * 200_000, first, second))
        store.conn.execute("UPDATE turn SET observation = ? WHERE episode = ? AND n = 0", (sign * 2_500_000, first))
    for path in (f"/episodes/{first}", f"/episodes/{first}/turns/0", f"/versions/v2/against/v2?a_episode={first}&b_episode={second}"):
        page = acting.get(path)
        assert page.status == 200
        assert len(page.text.encode()) < LARGEST, path
        assert sign not in page.text
    page = acting.get(f"/episodes/{first}")
    assert 'rel="next"' in page.text, "fewer turns than usual, and the others on further pages"


def test_a_person_judges_an_episode_from_its_page(acting: Visitor) -> None:
    first, *_ = live(acting.home)
    page = acting.get(f"/episodes/{first}").text
    assert 'action="/act/episodes/judge"' in page
    sent = acting.send("/act/episodes/judge", episode=first, reward="-0.5", source="anna", key="k1", reason="rude")
    assert (sent.status, sent.headers["location"]) == (303, f"/episodes/{first}")
    again = acting.send("/act/episodes/judge", episode=first, reward="-0.5", source="anna", key="k1", reason="rude")
    assert again.status == 303
    with open_store(acting.home) as store:
        assert rewards_of(store, first) == {"anna": -0.5}
        assert [(one.what, one.reason) for one in list_changes(store)] == [("episode reward", "rude")]
    page = acting.get(f"/episodes/{first}").text
    assert "reward of anna" in page
    assert '<option value="anna">' in page
    assert acting.send("/act/episodes/judge", episode=first, reward="nan", source="anna", key="k2", reason="odd").status == 422
    assert acting.send("/act/episodes/judge", episode=999999, reward="1", source="anna", key="k3", reason="odd").status == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/episodes/999999", 404),
        ("/episodes/1/turns/99", 404),
        ("/episodes/999999/turns/0", 404),
        ("/episodes?environment=none", 404),
        ("/episodes?version=..%2f..%2fetc", 404),
        (f"/episodes/{2**63}", 422),
        ("/episodes/abc", 422),
        ("/episodes?before=-1", 422),
        ("/episodes?purpose=x'--", 422),
        ("/episodes?limit=1000000000", 200),
    ],
)
def test_what_is_not_there_is_said(looking: Visitor, path: str, status: int) -> None:
    assert looking.get(path).status == status


def test_empty_homes_and_homes_without_a_store(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    nothing = visitor(tmp_path / "none")
    for path in ("/retention", "/versions", "/episodes", "/episodes/1", "/versions/v0", "/gates/1"):
        page = nothing.get(path)
        assert page.status == 200
        assert "Nothing has run here yet" in page.words
    create_store(tmp_path / "empty").close()
    empty = visitor(tmp_path / "empty")
    assert "No episode was played yet" in empty.get("/episodes").words
    assert "There is no version yet" in empty.get("/versions").words
    assert empty.get("/episodes/1").status == 404


def turn_document(n: int, said: str, tokens: int = 3) -> Document:
    return {"n": n, "action": said, "action_ids": list(range(tokens)), "logprobs": [-0.5] * tokens}


def both(turns: int, differs: int | None, tokens: int = 3, token: int | None = 1) -> Document:
    return {
        "first_difference": None if differs is None else {"turn": differs, "token": token, "what": "action"},
        "turns": [
            {"n": n, "same": differs is None or n < differs, "a": turn_document(n, "a", tokens), "b": turn_document(n, "b", tokens)}
            for n in range(turns)
        ],
    }


def test_two_answers_are_cut_to_the_first_turn_that_differs() -> None:
    parts = answer_parts(both(100, 50))
    assert (parts.shared, [turn.n for turn in parts.turns], parts.left_out) == (50, list(range(50 - BEFORE, 50 + AFTER)), 50 - AFTER)
    assert [turn.token for turn in parts.turns] == [None] * BEFORE + [1] + [None] * (AFTER - 1)
    assert parts.turns[0].a_tokens is None
    assert parts.turns[BEFORE].a_tokens is not None
    same = answer_parts(both(5, None))
    assert (same.shared, [turn.n for turn in same.turns], same.left_out) == (5, [3, 4], 0)


def test_of_long_answers_the_tokens_around_the_difference_are_shown() -> None:
    number = 10 * MOST_TOKENS
    for token in (0, 3, 5 * MOST_TOKENS, number - 1):
        window = answer_parts(both(1, 0, number, token)).turns[0].a_tokens
        assert window is not None
        assert len(window.ids) == len(window.logprobs) == MOST_TOKENS
        assert window.start <= token < window.start + MOST_TOKENS
        assert window.ids[0] == window.start


def test_the_name_of_an_environment_is_escaped_in_every_list(looking: Visitor) -> None:
    for path in ("/episodes", "/retention", "/versions/v3/against/v1"):
        assert HOSTILE_NAME not in looking.get(path).text
        assert "&lt;script&gt;alert(3)" in looking.get(path).text
