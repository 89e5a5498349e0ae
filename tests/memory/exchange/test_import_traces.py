"""Import: what is documented comes in whole and apart from our own; anything else is named, and nothing of it is kept."""

from __future__ import annotations

import codecs
import gzip
import json
import pickle
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.memory.everything import ADD
from tests.memory.test_migrations import contents

from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.exchange.export import Format, export
from perdure.memory.exchange.import_traces import Imported, import_file
from perdure.memory.exchange.trace_format import EPISODE_KEYS, TURN_KEYS
from perdure.memory.layout.blobs import unpack_ids, unpack_logprobs
from perdure.memory.processes import record_event
from perdure.memory.store import Store, open_store

DOCS = Path(__file__).resolve().parents[3] / "docs" / "store.md"
GOOD: dict[str, Any] = {"environment": "sums", "turns": [{"observation": "1 + 1?", "action": "2"}]}
TOKENS: dict[str, Any] = {"prompt_ids": [1, 2], "action_ids": [3, 4], "logprobs": [-0.5, -1.5]}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def with_turn(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "turns": [{**GOOD["turns"][0], **changes}]}


def empty(store: Store) -> bool:
    return not any(store.rows(f"SELECT 1 FROM {table} LIMIT 1") for table in ("import_batch", "foreign_episode", "foreign_turn"))


def test_the_example_in_the_documentation_comes_in(store: Store, tmp_path: Path) -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "traces.jsonl").write_text(example)
    came = import_file(store, tmp_path / "traces.jsonl", "the docs")
    counts = {"episodes": 3, "turns": 3, "passed_over": {}, "mended": 0, "unread": {}}
    assert came.as_json() == {"batch": 1, "label": "the docs", "new": True, **counts}
    listed = store.rows('SELECT label, row, name, environment, "group", sampler, total_reward, success, turns FROM foreign_list')
    assert [tuple(row) for row in listed] == [
        ("the docs", 1, None, "support-desk", None, None, 1.0, None, 1),
        ("the docs", 2, "run-3/42", "gsm8k", "question 5", "policy-200", 1.0, 1, 1),
        ("the docs", 3, None, "gsm8k", None, None, 0.0, None, 1),
    ]
    texts = store.rows("SELECT observation, action, reward, finish, prompt_tokens, action_tokens FROM foreign_text")
    assert [tuple(row) for row in texts] == [
        ("Where is my order 17?", "It left on Monday.", 1.0, None, None, None),
        ("What is 6 times 7?", "42", 1.0, "stop", None, None),
        (None, None, 0.0, None, 3, 3),
    ]
    (kept,) = store.rows("SELECT prompt_ids, action_ids, logprobs FROM foreign_turn WHERE prompt_ids IS NOT NULL")
    assert (unpack_ids(kept[0]), unpack_ids(kept[1])) == ((1, 4093, 198), (36, 34, 2))
    assert unpack_logprobs(kept[2]) == pytest.approx((-0.1, -0.7, -0.01))
    (conversation,) = store.rows("SELECT messages FROM foreign_turn WHERE messages IS NOT NULL")
    assert [message["role"] for message in json.loads(conversation[0])] == ["system", "user"]


def test_every_key_is_documented() -> None:
    text = DOCS.read_text()
    for header, keys in (("| key of an episode |", EPISODE_KEYS), ("| key of a turn |", TURN_KEYS)):
        lines = text[text.index(header) :].split("\n\n")[0].splitlines()[2:]
        assert {line.split("`")[1] for line in lines} == set(keys)


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_an_export_of_ours_comes_in_again(full: Store, tmp_path: Path, form: Format) -> None:
    before = contents(full)
    made = export(full, tmp_path / "e", form)
    came = import_file(full, made.path, "ourselves")
    assert (came.episodes, came.turns, came.passed_over) == (6, 8, {"not completed": 2, "held out": 3})
    rows = full.rows(
        "SELECT name, environment, seed, sampler, base_model, base_hash, total_reward, success FROM foreign_episode WHERE batch = ?",
        (came.batch,),
    )
    assert tuple(rows[0]) == ("1", ADD, 7, "v0", "tiny", "hash-of-tiny", 1.0, 1)
    assert [row["name"] for row in rows] == ["1", "2", "3", "6", "7", "8"]
    turns = full.rows(
        """
        SELECT t.prompt_ids, t.action_ids, t.logprobs, t.action FROM foreign_turn t JOIN foreign_episode f ON f.id = t.episode
        WHERE f.name = '3' AND f.batch = ? ORDER BY t.n
        """,
        (came.batch,),
    )
    assert [unpack_ids(row[0]) for row in turns] == [(1, 2, 3), (1, 2, 3, 10, 256, 20), (1, 2, 3, 10, 256, 20, 11, 256, 21)]
    assert contents(full) == before, "nothing of our own has changed"


def test_the_same_file_again_changes_nothing(store: Store, tmp_path: Path) -> None:
    first = import_file(store, jsonl(tmp_path / "a.jsonl", GOOD), "first")
    again = import_file(store, jsonl(tmp_path / "b.jsonl", GOOD), "under another name")
    assert (again.new, again.batch, again.label, again.episodes) == (False, first.batch, "first", 1)
    other = import_file(store, jsonl(tmp_path / "c.jsonl", GOOD, GOOD), "second")
    assert (other.new, other.batch, other.episodes) == (True, 2, 2)
    assert [row["id"] for row in store.rows("SELECT id FROM foreign_episode ORDER BY id")] == [1, 2, 3]


BAD: list[tuple[Any, str]] = [
    ([], "row 2: is a list, not an object"),
    ({"turns": GOOD["turns"]}, "row 2, environment: is missing"),
    ({**GOOD, "environment": ""}, "row 2, environment: is missing"),
    ({**GOOD, "environment": 7}, "row 2, environment: is a whole number, not a text"),
    ({**GOOD, "sucess": True}, "row 2, sucess: is an unknown key; did you mean 'success'?"),
    ({**GOOD, "success": 1}, "row 2, success: is a whole number, not true or false"),
    ({**GOOD, "seed": 2**63}, "row 2, seed: is 9223372036854775808, which has more than 64 bits"),
    ({**GOOD, "total_reward": "1"}, "row 2, total_reward: is a text, not a number"),
    ({**GOOD, "total_reward": True}, "row 2, total_reward: is true or false, not a number"),
    ({**GOOD, "state": "won"}, "row 2, state: is 'won': it is one of completed"),
    ({**GOOD, "turns": []}, "row 2, turns: is missing or empty"),
    ({"environment": "sums"}, "row 2, turns: is missing or empty"),
    ({**GOOD, "turns": {}}, "row 2, turns: is an object, not a list"),
    ({**GOOD, "turns": ["2"]}, r"row 2, turns\[0\]: is a text, not an object"),
    ({**GOOD, "turns": [*GOOD["turns"], {"action": "2"}]}, r"row 2, turns\[1\]: has no prompt"),
    ({**GOOD, "turns": [{"observation": "1 + 1?"}]}, r"row 2, turns\[0\]: has no answer"),
    ({**GOOD, "turns": [TOKENS]}, "row 2, base_model: is missing: token ids mean nothing"),
    ({**GOOD, "base_model": "m", "turns": [{**TOKENS, "logprobs": [-1.0]}]}, r"turns\[0\].logprobs: has 1 values for 2 action_ids"),
    (with_turn(logprobs=[-1.0]), r"row 2, turns\[0\].logprobs: has 1 values for no action_ids"),
    ({**with_turn(action_ids=[1, -1]), "base_model": "m"}, r"row 2, turns\[0\].action_ids\[1\]: is -1, not a token id"),
    ({**with_turn(prompt_ids=[2**31]), "base_model": "m"}, r"row 2, turns\[0\].prompt_ids\[0\]: is 2147483648, not a token id"),
    ({**with_turn(action_ids=["a"]), "base_model": "m"}, r"action_ids\[0\]: is a text, not a token id"),
    ({**with_turn(action_ids=[1], logprobs=[-1e39]), "base_model": "m"}, r"logprobs: has a value that float32 cannot hold"),
    (with_turn(reward="high"), r"row 2, turns\[0\].reward: is a text"),
    (with_turn(finish="eos"), r"row 2, turns\[0\].finish: is 'eos'"),
    (with_turn(messages=[]), r"row 2, turns\[0\].messages: is empty or ends with an answer"),
    (with_turn(messages=[{"role": "assistant", "content": "2"}]), r"messages: is empty or ends with an answer"),
    (with_turn(messages=[{"role": "judge", "content": "2"}]), r"row 2, turns\[0\].messages\[0\].role: is 'judge'"),
    (with_turn(messages=[{"role": "tool", "content": "2"}]), r"row 2, turns\[0\].messages\[0\]: answers no call"),
    (with_turn(messages=[{"role": "user"}]), r"row 2, turns\[0\].messages\[0\].content: is missing"),
    (with_turn(messages="1 + 1?"), r"row 2, turns\[0\].messages: is a text, not a list"),
]


@pytest.mark.parametrize(("row", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_row_is_named_and_nothing_is_kept(store: Store, tmp_path: Path, row: Any, message: str) -> None:
    path = jsonl(tmp_path / "traces.jsonl", GOOD, row, GOOD)
    with pytest.raises(InputError, match=message) as caught:
        import_file(store, path, "bad")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert empty(store)
    assert import_file(store, jsonl(path, GOOD), "mended").episodes == 1


@pytest.mark.parametrize(
    "content",
    [b'{"environment": "sums"', b"\xff\xfe{}", b'{"environment": "sums", "seed": NaN}', b"[" * 100_000, pickle.dumps(GOOD), b"not json"],
    ids=["cut", "encoding", "NaN", "deep", "pickle", "words"],
)
def test_a_line_that_is_not_json_is_named(store: Store, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "traces").write_bytes(json.dumps(GOOD).encode() + b"\n\n" + content + b"\n")
    with pytest.raises(InputError, match="traces, row 3: is not JSON in UTF-8") as caught:
        import_file(store, tmp_path / "traces", "bad")
    assert "\n" not in str(caught.value)
    assert empty(store)


def test_a_damaged_parquet_file_is_refused(full: Store, tmp_path: Path) -> None:
    whole = export(full, tmp_path / "e.parquet", "parquet").path.read_bytes()
    before = len(full.rows("SELECT 1 FROM import_batch"))
    for n, content in enumerate((whole[:-20], whole[:2000] + b"\0" * 500 + whole[2500:], b"PAR1")):
        path = tmp_path / f"{n}.parquet"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{n}.parquet is damaged or not a Parquet file"):
            import_file(full, path, "bad")
    assert len(full.rows("SELECT 1 FROM import_batch")) == before, "those that the home had before"


def test_parquet_rows_are_checked_alike(store: Store, tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", GOOD, {**GOOD, "turns": [{"observation": "1 + 2?", "action": None}]})
    with pytest.raises(InputError, match=r"a.parquet, row 2, turns\[0\]: has no answer"):
        import_file(store, path, "bad")
    assert empty(store)
    came = import_file(store, parquet(tmp_path / "b.parquet", {**GOOD, "id": "x"}, GOOD), "good")
    assert (came.episodes, came.turns) == (2, 2)


def test_a_file_without_episodes_to_learn_from_is_refused(full: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n\n")
    with pytest.raises(InputError, match=r"has no episode to learn from: docs/store\.md"):
        import_file(full, tmp_path / "empty", "bad")
    export(full, tmp_path / "e.parquet", "parquet", purpose="probe")
    with pytest.raises(InputError, match=r"1 held out, 1 not completed"):
        import_file(full, tmp_path / "e.parquet", "bad")
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            import_file(full, path, "bad")


def test_lone_surrogates_and_strange_texts_come_in(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"environment": "e", "turns": [{"observation": "\\ud800 \\u0000", "action": "\\u2028"}]}\n')
    assert import_file(store, tmp_path / "a", "strange").mended == 1, "and it is said"
    (row,) = store.rows("SELECT observation, action FROM foreign_turn")
    assert tuple(row) == ("? \0", "\u2028")


def test_other_processes_can_write_while_a_file_is_read(store: Store, tmp_path: Path) -> None:
    """Others are locked out for the moment of the copy only, not while the file is read."""
    path = jsonl(tmp_path / "traces.jsonl", *[{**GOOD, "id": n} for n in range(5000)])
    done: list[Imported] = []

    def read() -> None:
        with open_store(store.home) as mine:
            done.append(import_file(mine, path, "large"))

    store.conn.execute("PRAGMA busy_timeout = 0")
    thread = threading.Thread(target=read)
    thread.start()
    tried = Counter[bool]()
    while thread.is_alive():
        try:
            record_event(store, "beat", "test", "x")
            tried[True] += 1
        except RuntimeFailure:
            tried[False] += 1
            time.sleep(0.001)
    thread.join()
    assert done[0].episodes == 5000
    assert tried[True] > tried[False]


def test_nothing_is_left_beside_the_store(store: Store, tmp_path: Path) -> None:
    before = sorted(entry.name for entry in store.home.iterdir())
    import_file(store, jsonl(tmp_path / "good", GOOD), "good")
    with pytest.raises(InputError):
        import_file(store, jsonl(tmp_path / "bad", GOOD, {}), "bad")
    assert sorted(entry.name for entry in store.home.iterdir()) == before
    assert [row["name"] for row in store.rows("PRAGMA database_list")] == ["main"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"turns": [{**TOKENS, "logprobs": [5.0, -1.0]}]},
            r"row 1, turns\[0\]\.logprobs\[0\]: is 5\.0: the logarithm of a probability is at most 0",
        ),
        (
            {"turns": [{**GOOD["turns"][0], "reward": 1e308}] * 2},
            r"row 1, turns\[0\]\.reward: is 1e\+308: a reward is at most 1e\+12 in size",
        ),
        ({"total_reward": -1.7e308}, r"row 1, total_reward: is -1\.7e\+308: a reward is at most"),
    ],
)
def test_found_numbers_that_would_spoil_what_is_learned_are_refused(
    store: Store, tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    path = jsonl(tmp_path / "a", {"environment": "e", "base_model": "m", "turns": GOOD["turns"], **change})
    with pytest.raises(InputError, match=match):
        import_file(store, path, "bad")
    assert store.rows("SELECT count(*) FROM foreign_episode")[0][0] == 0


def test_found_a_log_prob_that_rounding_made_positive_counts_as_zero(store: Store, tmp_path: Path) -> None:
    row = {"environment": "e", "base_model": "m", "turns": [{**TOKENS, "logprobs": [1e-7, -1.0]}]}
    import_file(store, jsonl(tmp_path / "a", row), "rounded")
    assert unpack_logprobs(store.rows("SELECT logprobs FROM foreign_turn")[0][0]) == (0.0, -1.0)


@pytest.mark.parametrize("write", [gzip.compress, lambda data: codecs.BOM_UTF8 + data, lambda data: data.replace(b"\n", b"\r\n")])
def test_found_files_of_other_programs_come_in(store: Store, tmp_path: Path, write: Callable[[bytes], bytes]) -> None:
    lines = "".join(json.dumps({"id": n + 0.5, "environment": "e", "turns": GOOD["turns"]}) + "\n" for n in range(2))
    (tmp_path / "a").write_bytes(write(lines.encode()))
    assert import_file(store, tmp_path / "a", "theirs").episodes == 2
    assert [row["name"] for row in store.rows("SELECT name FROM foreign_episode ORDER BY row")] == ["0.5", "1.5"]


def test_found_damaged_gzip_and_a_key_given_twice_are_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(b'{"environment": "e"}' * 50)[:-12])
    with pytest.raises(InputError, match="is a damaged gzip file"):
        import_file(store, tmp_path / "a", "bad")
    (tmp_path / "b").write_text('{"environment": "e", "environment": "f", "turns": []}')
    with pytest.raises(InputError, match=r"row 1: is not JSON in UTF-8 .names 'environment' twice in one object"):
        import_file(store, tmp_path / "b", "bad")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_an_export_that_was_changed_since_is_refused(full: Store, tmp_path: Path, form: Format) -> None:
    path = export(full, tmp_path / "e", form, purpose="learn").path
    documents = [json.loads(line) for line in path.read_text().splitlines()] if form == "jsonl" else pq.read_table(path).to_pylist()
    documents[1]["turns"][0]["reward"] = 0.5
    again = jsonl(tmp_path / "again", *documents)
    with pytest.raises(InputError, match=r"row 2, digest: differs from that of what it covers \(turn 0\): .* take the digests out"):
        import_file(full, again, "changed")
    for document in documents:
        del document["digest"]
    assert import_file(full, jsonl(tmp_path / "meant", *documents), "meant").episodes == len(documents)
