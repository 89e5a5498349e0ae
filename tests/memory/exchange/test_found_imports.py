"""Files of other pipelines with numbers that cannot be, and with small differences that mean nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perdure.memory.errors import InputError
from perdure.memory.exchange.import_traces import import_file
from perdure.memory.store import Store

TOKENS: dict[str, Any] = {"prompt_ids": [1], "action_ids": [2]}


def row(*turns: dict[str, Any], **more: Any) -> str:
    return json.dumps({"environment": "e", "base_model": "m", "turns": list(turns), **more}) + "\n"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (row({**TOKENS, "logprobs": [5.0]}), "row 1, turns[0].logprobs[0]: is 5.0: the logarithm of a probability is at most 0"),
        (row({**TOKENS, "logprobs": [0.01]}), "at most 0"),
        (
            row({**TOKENS, "reward": 1.7e308}, {**TOKENS, "reward": 1.7e308}),
            "row 1, turns[0].reward: is 1.7e+308: a reward is at most 1e+12 in size",
        ),
        ('{"environment": "e", "environment": "f", "turns": [{"observation": "a", "action": "b"}]}\n', "names 'environment' twice"),
    ],
)
def test_found_impossible_numbers_are_refused_with_their_place(store: Store, tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "traces.jsonl").write_text(line)
    with pytest.raises(InputError) as refused:
        import_file(store, tmp_path / "traces.jsonl", "label")
    assert complaint in str(refused.value)
    assert store.rows("SELECT 1 FROM foreign_episode") == []


def test_found_a_byte_order_mark_and_a_number_as_id_are_taken(store: Store, tmp_path: Path) -> None:
    lines = row({**TOKENS, "logprobs": [0.0]}, id=1.0) + row({**TOKENS, "logprobs": [1e-6]}, id=2.5) + row(TOKENS, id="three")
    (tmp_path / "traces.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert import_file(store, tmp_path / "traces.jsonl", "label").episodes == 3
    assert [found["name"] for found in store.rows("SELECT name FROM foreign_episode ORDER BY row")] == ["1", "2.5", "three"]
