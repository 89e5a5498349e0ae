"""`perdure store archive` and `perdure sql`: what they print, their exit codes, and one line for what cannot be done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.agent.commands.test_store_commands import full
from tests.agent.conftest import Call

from perdure.agent.home import HomeLock
from perdure.memory.store import Store, open_store

__all__ = ["full"]

pytest.importorskip("duckdb")
MEANS = "select environment, count(*) as n, avg(success) as mean from episodes group by 1 order by 1"
WITHOUT = "import sys; sys.modules['duckdb'] = None; from perdure.agent.cli import main; main(sys.argv[1:])"
"""Runs a command as if DuckDB were not installed."""


def moved(home: Path) -> list[int]:
    def ids(store: Store) -> list[int]:
        return [row["episode"] for row in store.rows("SELECT episode FROM shelved ORDER BY 1")]

    with open_store(home) as store:
        return ids(store)


def test_turns_move_and_are_shown_and_asked_for_as_before(perdure: Call, full: Path, tmp_path: Path) -> None:
    asked, shown = perdure("sql", MEANS).out, perdure("episode", "show", "3", "--json").out
    assert json.loads(asked) == [
        {"environment": "perdure:add", "n": 7, "mean": 5 / 7},
        {"environment": "perdure:sort?numbers=3", "n": 2, "mean": 0.5},
    ]
    planned = json.loads(perdure("store", "archive", "--older-than", "0d", "--dry-run").out)
    assert (planned["episodes"], planned["shards"], moved(full)) == (10, [], [])
    done = perdure("store", "archive", "--older-than", "0d")
    found = json.loads(done.out)
    assert (done.code, done.err, found["episodes"], found["turns"], found["kept_turns"]) == (0, "", 10, 12, 3)
    assert [(shard["episodes"], shard["turns"]) for shard in found["shards"]] == [(10, 12)]
    assert moved(full) == [1, 2, 3, 6, 7, 8, 9, 10, 11, 12]
    assert perdure("sql", MEANS).out == asked
    assert perdure("episode", "show", "3", "--json").out == shown
    assert json.loads(perdure("store", "check").out)["looked_at"]["shards"] == 1
    assert json.loads(perdure("status", "--json").out)["turns"] == 15
    backup = json.loads(perdure("store", "backup", str(tmp_path / "b.db")).out)
    assert (backup["shards"], backup["shard_lacks"], backup["turns"]) == (1, [], 15)


def test_a_table_for_people(perdure: Call, full: Path) -> None:
    done = perdure("sql", "select n, observation, null as nothing from turns where episode = 3 order by n limit 1", "--table")
    assert (done.code, done.out.split()) == (0, ["n", "observation", "nothing", "0", "1", "+", "0?", "é\\n", "-"])
    assert perdure("sql", "select range from range(2000)", "--table").err == (
        "There are more than 1000 rows: add a LIMIT, or see all with --json.\n"
    )
    assert "12 turns of 10 episodes moved to 1 shards" in perdure("store", "archive", "--older-than", "0d", "--table").out
    assert perdure("sql", "select 1 where false").out == "[]\n"


def test_values_of_every_kind_in_json(perdure: Call, full: Path) -> None:
    done = perdure(
        "sql",
        "select 1.5::decimal(4,1) as d, 2::decimal(4,1) as whole, 'nan'::double as nan, date '2026-11-30' as day,"
        " timestamp '2026-11-30 01:02:03' as at_, [1, 2] as list, {'a': 1} as struct, 'ab'::blob as bytes, true as flag, null as nothing,"
        " interval 90 second as span, 'ü' || chr(7) as t, 170141183460469231731687303715884105727::hugeint as huge,"
        " '00000000-0000-0000-0000-000000000001'::uuid as u",
    )
    (row,) = json.loads(done.out)
    assert row == {
        "d": 1.5,
        "whole": 2,
        "nan": None,
        "day": "2026-11-30",
        "at_": "2026-11-30T01:02:03",
        "list": [1, 2],
        "struct": {"a": 1},
        "bytes": "6162",
        "flag": True,
        "nothing": None,
        "span": 90.0,
        "t": "ü\x07",
        "huge": 2**127 - 1,
        "u": "00000000-0000-0000-0000-000000000001",
    }


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("delete from turns", "takes one SELECT, which reads the views episodes, turns and turn_tokens; this is DELETE"),
        ("select * from read_text('/etc/hostname')", "and no other file"),
        ("select nope from turns", "`perdure sql 'describe episodes'` shows columns"),
    ],
)
def test_a_question_that_cannot_be_asked_is_exit_code_2(perdure: Call, full: Path, question: str, says: str) -> None:
    done = perdure("sql", question)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert says in done.err


@pytest.mark.parametrize("age", ["", "d", "-1d", "nan", "inf", "3w", "1d2h"])
def test_an_age_that_is_none(perdure: Call, full: Path, age: str) -> None:
    done = perdure("store", "archive", "--older-than", age)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "is no length of time: write 30d, 12h, 90m or 0d" in done.err


def test_ages(perdure: Call, full: Path) -> None:
    with open_store(full) as store:
        store.rows("UPDATE episode SET started_at = started_at - 5400 WHERE id <= 2")
    for age, episodes in (("1d", 0), ("1", 0), ("2h", 0), ("1h", 2), ("80m", 2), ("0.05d", 2), ("5300s", 2)):
        done = perdure("store", "archive", "--older-than", age, "--dry-run")
        assert json.loads(done.out)["episodes"] == episodes, age


def test_a_lost_shard_is_named_and_is_exit_code_1(perdure: Call, full: Path, tmp_path: Path) -> None:
    perdure("store", "archive", "--older-than", "0d")
    (shard,) = (full / "history").iterdir()
    shard.rename(tmp_path / "elsewhere")
    done = perdure("sql", "select count(*) as n from episodes")
    assert (done.code, json.loads(done.out)) == (1, [{"n": 9}])
    assert f"The answer lacks turns: the shard history/{shard.name} is missing" in done.err
    for arguments, code in ((("episode", "show", "3"), 3), (("store", "check"), 1), (("store", "export", "--out", str(tmp_path / "e")), 1)):
        done = perdure(*arguments)
        assert (done.code, shard.name in done.out + done.err) == (code, True), arguments
    done = perdure("store", "backup", str(tmp_path / "b.db"), "--table")
    assert (done.code, done.err.count(shard.name)) == (1, 1)
    assert json.loads(perdure("status", "--json").out)["turns"] == 15


def test_a_damaged_episode_stays_and_is_exit_code_1(perdure: Call, full: Path) -> None:
    with open_store(full) as store:
        store.rows("UPDATE turn SET reward = 9 WHERE episode = 1")
    done = perdure("store", "archive", "--older-than", "0d")
    assert (done.code, json.loads(done.out)["damaged"]) == (1, [1])
    assert "Episode 1 differs from its digest and stays" in done.err
    assert moved(full) == [2, 3, 6, 7, 8, 9, 10, 11, 12]


def test_a_home_in_use_is_not_archived_and_can_be_asked(perdure: Call, full: Path) -> None:
    with HomeLock(full):
        done = perdure("store", "archive", "--older-than", "0d")
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert moved(full) == []
        assert json.loads(perdure("sql", "select count(*) as n from turns").out) == [{"n": 11}]


def test_an_address_with_keys_is_refused(perdure: Call, full: Path) -> None:
    done = perdure("store", "archive", "--older-than", "0d", "--to", "s3://key:secret@bucket/x")
    assert (done.code, "secret" in done.err, done.err.count("\n")) == (2, False, 1)


@pytest.mark.processes
def test_without_duckdb_the_extra_is_named(full: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "sql", "select 1", "--home", str(full)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "perdure: SQL needs DuckDB: python -m pip install 'perdure[history]'\n"
