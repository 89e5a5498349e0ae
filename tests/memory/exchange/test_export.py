"""Export: every token of every episode that has ended, in both forms alike, whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.memory.everything import leased_task, play

from perdure.memory.errors import InputError
from perdure.memory.exchange.document_digests import changed_parts
from perdure.memory.exchange.documents import document_schema, portions, read_documents
from perdure.memory.exchange.export import Format, export
from perdure.memory.store import Store
from perdure.memory.trajectories.episodes import get_episode


def rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().removesuffix("\n").split("\n")]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_what_is_exported_is_what_was_journalled(full: Store, tmp_path: Path, form: Format) -> None:
    made = export(full, tmp_path / f"e.{form}", form)
    found = rows(made.path)
    assert [row["id"] for row in found] == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12], "the fifth is being played"
    assert (made.episodes, made.turns, made.size_bytes) == (11, 13, made.path.stat().st_size)
    for row in found:
        kept = get_episode(full, row["id"])
        for key, value in asdict(kept).items():
            if key != "turns":
                assert row[key] == value, key
        assert list(changed_parts(row)) == [], "its digests can be computed from the document alone"
        assert (row["base_model"], row["base_hash"]) == ("tiny", "hash-of-tiny")
        assert row["sampler"] == str(kept.turns[0].sampler)
        for n, (turn, said) in enumerate(zip(row["turns"], kept.turns, strict=True)):
            assert turn["n"] == n
            assert turn["sampler"] == str(said.sampler)
            for key in ("prompt_ids", "action_ids", "logprobs"):
                assert tuple(turn[key]) == getattr(said, key)
            for key in ("observation", "action", "reward", "finish"):
                assert turn[key] == getattr(said, key)
    assert found[2]["turns"][2]["prompt_ids"] == [1, 2, 3, 10, 256, 20, 11, 256, 21], "prompts are whole"
    assert [{**batch, "digest": None} for batch in found[4]["batches"]] == [
        {"job": 1, "attempt": 1, "n": 1, "on_policy": True, "digest": None}
    ]
    assert [(batch["n"], batch["on_policy"]) for batch in found[0]["batches"]] == [(2, False)]
    assert found[3]["batches"] == []
    judged = [(reward["source"], reward["value"]) for reward in found[0]["rewards"]]
    assert judged == [("anna", 0.25), ("judge-2", 1.0)]
    assert [(reward["source"], reward["value"]) for reward in found[4]["rewards"]] == [("anna", -1.0)]
    assert found[1]["rewards"] == []


def test_parquet_has_typed_columns(full: Store, tmp_path: Path) -> None:
    export(full, tmp_path / "e.parquet", "parquet")
    found = pq.read_schema(tmp_path / "e.parquet")
    assert found.names == document_schema().names
    turn = found.field("turns").type.value_type
    assert turn.field("prompt_ids").type.value_type == turn.field("action_ids").type.value_type == pa.int32()
    assert turn.field("logprobs").type.value_type == pa.float32()
    assert (found.field("success").type, found.field("score").type, found.field("environment").type) == (
        pa.bool_(),
        pa.float64(),
        pa.string(),
    )


def test_both_forms_hold_the_same(full: Store, tmp_path: Path) -> None:
    for form in ("parquet", "jsonl"):
        export(full, tmp_path / f"e.{form}", form)  # type: ignore[arg-type]
    assert rows(tmp_path / "e.parquet") == rows(tmp_path / "e.jsonl")


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({"environment": "perdure:sort?numbers=3"}, [3, 8]),
        ({"version": "v1"}, [10, 11, 12]),
        ({"purpose": "live"}, [1, 2, 3, 4]),
        ({"purpose": "live", "environment": "perdure:add"}, [1, 2, 4]),
        ({"since": 1000.0, "purpose": "probe"}, [11, 12]),
    ],
)
def test_episodes_are_chosen(full: Store, tmp_path: Path, wanted: dict[str, Any], ids: list[int]) -> None:
    full.rows("UPDATE episode SET started_at = 500 WHERE id < 11")
    export(full, tmp_path / "e.jsonl", "jsonl", **wanted)
    assert [row["id"] for row in rows(tmp_path / "e.jsonl")] == ids


def test_an_export_without_matching_episodes_is_refused(full: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no ended episode matches"):
        export(full, tmp_path / "e.parquet", "parquet", since=1e12)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_file_is_not_overwritten_without_force(full: Store, tmp_path: Path, form: Format) -> None:
    (tmp_path / "e").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        export(full, tmp_path / "e", form)
    assert (tmp_path / "e").read_text() == "mine"
    export(full, tmp_path / "e", form, replace=True)
    assert (tmp_path / "e").stat().st_size > 1000


def test_an_export_is_never_written_over_the_store(full: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(full.home)
    for path in (full.home / "perdure.db", tmp_path / "link" / "perdure.db", tmp_path / "x" / ".." / "home" / "e"):
        with pytest.raises(InputError, match="is inside the home"):
            export(full, path, "parquet", replace=True)


def test_what_is_in_many_portions_is_all_there(store: Store, tmp_path: Path) -> None:
    for _ in range(3):
        lease = leased_task(store)
        play(store, lease, f"group of {lease.subject}", [1.0] * 400, turns=2)
        store.rows("UPDATE task SET state = 'done', owner = NULL WHERE id = ?", (lease.subject,))
    made = export(store, tmp_path / "e.parquet", "parquet")
    file = pq.ParquetFile(made.path)
    assert (made.episodes, made.turns) == (1200, 2400)
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [1000, 200]
    assert file.read(columns=["id"])["id"].to_pylist() == list(range(1, 1201))
    assert read_documents(store, range(1, 1201)).equals(file.read().cast(document_schema()))
    file.close()


def test_portions_are_bounded() -> None:
    assert list(portions([(1, 3), (2, 3), (3, 9), (4, 0), (5, 1)], 6)) == [[1, 2], [3], [4, 5]]
    assert list(portions([], 6)) == []


EXPORT = """
import resource, signal, sys
from pathlib import Path
from perdure.memory.errors import RuntimeFailure
from perdure.memory.exchange.export import export
from perdure.memory.store import open_store
store = open_store(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    export(store, Path(sys.argv[2]), sys.argv[3])
except RuntimeFailure as error:
    print(error)
"""


@pytest.mark.processes
@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_disk_that_is_full_leaves_nothing(full: Store, tmp_path: Path, form: Format) -> None:
    command = [sys.executable, "-c", EXPORT, str(full.home), str(tmp_path / "e"), form]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "could not write" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.processes
def test_no_arrow_is_imported_before_it_is_needed() -> None:
    names = ("upkeep.backup", "upkeep.integrity", "upkeep.prune", "exchange.documents", "exchange.export", "exchange.trace_format")
    modules = ", ".join(f"perdure.memory.{name}" for name in (*names, "exchange.import_traces"))
    # Without pandas, which sqlite-utils imports if it is installed, and which imports pyarrow itself.
    script = f"import sys; sys.modules['pandas'] = None; import {modules}; print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_text_of_any_kind_comes_through(store: Store, tmp_path: Path) -> None:
    lease = leased_task(store)
    (episode,) = play(store, lease, "g", [0.5])
    strange = 'zero\0 line\u2028 quote" back\\slash \U0001f600 \r\n\t end'
    store.rows("UPDATE turn SET observation = ?, action = ? WHERE episode = ?", (strange, strange, episode))
    for form in ("parquet", "jsonl"):
        export(store, tmp_path / f"e.{form}", form)  # type: ignore[arg-type]
        (row,) = rows(tmp_path / f"e.{form}")
        assert row["turns"][0]["observation"] == row["turns"][0]["action"] == strange
