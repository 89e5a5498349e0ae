"""SQL over both: right values against homes made by hand, nothing but reading, and one line for what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.memory.history.test_archive import NOW, archive, done_task, files, many, quiet
from tests.test_docs import CODE, ROOT, table

from perdure.memory.errors import InputError, PerdureError, RuntimeFailure
from perdure.memory.history.read_sql import ask_sql
from perdure.memory.history.sql_views import VIEWS
from perdure.memory.store import Store, open_store
from perdure.memory.upkeep.prune import Keep, prune

pytest.importorskip("duckdb")

MEANS = "select environment, count(*), avg(success), sum(turns) from episodes group by 1 order by 1"


def asked(store: Store, question: str) -> list[tuple[Any, ...]]:
    with ask_sql(store, question) as answer:
        assert answer.lost == ()
        return list(answer.rows)


def test_the_answer_is_the_same_wherever_turns_are(full: Store) -> None:
    """Two of seven completed episodes of `add` did not succeed, one of two of `sort` did; eight of their turns are single ones."""
    questions = {
        MEANS: [("perdure:add", 7, 5 / 7, 7), ("perdure:sort?numbers=3", 2, 0.5, 4)],
        "select count(*), sum(reward), sum(prompt_tokens), sum(action_tokens) from turns": [(11, 6.5, 11 * 3 + 3 + 6, 22)],
        "select n, observation, action, prompt_tokens, sampler from turns where episode = 3 order by n": [
            (n, f"1 + {n}? é\n", str(10 + n), 3 + 3 * n, "v0") for n in range(3)
        ],
        "select distinct sampler from episodes order by 1": [("job 1 step 0",), ("v0",), ("v1",)],
        "select new_ids, action_ids, logprobs[2] from turn_tokens where episode = 3 and n = 1": [([1, 2, 3, 10, 256, 20], [11, 256], -2.5)],
        "select id, group_name, member, seat, purpose, task, job, temperature, total_reward, stop_reason from episodes where id = 2": [
            (2, "task-1", 1, 0, "live", 1, None, 1.0, 0.0, "terminated")
        ],
        "select count(*) from episodes where started_at > now() at time zone 'utc' - interval 1 hour and finished_at >= started_at": [(9,)],
        "select avg(t.reward) from turns t join episodes e on e.id = t.episode where e.purpose = 'learn'": [(0.5,)],
        "select count(*) from turns where made_at is null or environment is null or purpose is null": [(0,)],
    }
    before = {question: asked(full, question) for question in questions}
    assert before == questions
    archive(full, NOW, quiet)
    assert {question: asked(full, question) for question in questions} == questions


def test_half_in_the_database_and_half_in_shards(store: Store) -> None:
    many(store, 3, turns=2)  # returns 0, 0.5 and 1
    archive(store, NOW, quiet, shard_turns=16)
    done_task(store, [1.0, 1.0, 0.0, 0.0], turns=3)
    assert asked(store, MEANS) == [("perdure:add", 28, 10 / 28, 24 * 2 + 4 * 3)]
    assert asked(store, "select count(*), count(distinct (episode, n)), sum(reward) from turns") == [(60, 60, 8 * 0.5 + 8 + 2)]
    assert asked(store, "select count(*) from turn_tokens a join turns b using (episode, n) join episodes e on e.id = a.episode") == [(60,)]


def test_what_was_pruned_of_a_shard_is_not_shown(store: Store) -> None:
    played = many(store, 4)
    archive(store, NOW, quiet)
    prune(store, Keep(episodes=8, live=0), quiet)
    assert asked(store, "select count(*), min(id) from episodes") == [(8, played[24])]
    assert asked(store, "select count(*), min(episode) from turns") == [(8, played[24])]


def test_a_home_without_episodes_and_a_question_without_views(store: Store) -> None:
    assert asked(store, "select count(*) from episodes") == [(0,)]
    assert asked(store, "select count(*) from turns join turn_tokens using (episode, n)") == [(0,)]
    with ask_sql(store, "values (1, 2), (3, 4)") as answer:
        assert (len(answer.columns), sorted(answer.rows)) == (2, [(1, 2), (3, 4)])
    with ask_sql(store, "select 1 as a, 2 as a, 3 as b") as answer:
        assert (answer.columns, list(answer.rows)) == (("a", "a_2", "b"), [(1, 2, 3)])


@pytest.mark.parametrize("view", [view.name for view in VIEWS])
def test_the_columns_are_those_of_the_views(full: Store, view: str) -> None:
    (wanted,) = [[(name, kind) for name, kind, _, _ in one.columns] for one in VIEWS if one.name == view]
    assert [row[:2] for row in asked(full, f"describe {view}")] == wanted
    archive(full, NOW, quiet)
    assert [row[:2] for row in asked(full, f"describe {view}")] == wanted


def test_every_column_is_documented() -> None:
    page = ROOT / "docs/history.md"
    for view in VIEWS:
        shown: list[tuple[str, str]] = []
        for line in table(page, f"| `{view.name}` | type | meaning |"):
            names, kinds, _ = line.split(" | ")
            named = CODE.findall(names)
            shown += zip(named, kinds.split(", ") if ", " in kinds else [kinds] * len(named), strict=True)
        assert shown == [(name, kind) for name, kind, _, _ in view.columns]


@pytest.mark.parametrize(
    "question",
    [
        "from turns select count(*)",
        "with turns as (select 1 as a) select count(*) + 10 from turns",
        "select count(*) from main.turns",
        "select count(*) from TURNS",
        'select count(*) from "turns"',
        "select count(*) from query_table('turns')",
        "select count(*) from query('select * from turns')",
        "select (select count(*) from turns)",
        "select count(*) from (pivot turns on finish in ('stop') using count(*) group by episode, n)",
        "select count(*) from turns as t, unnest([1]) u",
    ],
)
def test_views_are_found_however_they_are_named(full: Store, question: str) -> None:
    assert asked(full, question) == [(11,)]


HOSTILE = {
    "delete from turns": "takes one SELECT, .*; this is DELETE",
    "update episodes set success = 1": "this is UPDATE",
    "insert into turns select * from turns": "this is INSERT",
    "create table x (a int)": "this is CREATE",
    "drop view turns": "this is DROP",
    "copy turns to '{folder}/out.parquet'": "this is COPY",
    "export database '{folder}/out'": "this is EXPORT",
    "attach '{folder}/out.db'": "this is ATTACH",
    "install httpfs": "this is LOAD",
    "load sqlite": "this is LOAD",
    "pragma database_list": "this is PRAGMA",
    "set memory_limit = '1TB'": "this is SET",
    "call pragma_version()": "this is CALL",
    "explain analyze copy turns to '{folder}/out.csv'": "this is EXPLAIN",
    "begin": "this is TRANSACTION",
    "prepare x as select 1": "this is PREPARE",
    "vacuum": "this is VACUUM",
    "select 1; drop view turns": "this is several statements",
    "": "this is nothing",
    "-- a comment": "this is nothing",
    "select * from read_text('{secret}')": "no other file",
    "select * from read_csv('{secret}')": "no other file",
    "select * from read_blob('{secret}')": "no other file",
    "select * from read_parquet('{folder}/*.parquet')": "no other file",
    "select * from glob('{folder}/*')": "no other file",
    "select * from '{secret}'": "no other file|does not exist",
    "select * from parquet_metadata('{secret}')": "no other file",
    "select * from read_json('{secret}')": "no other file",
    "select * from read_text('{home}/perdure.db')": "no other file",
    "select * from read_text('{home}/history/../perdure.db')": "no other file",
    "select * from read_parquet('http://127.0.0.1:9/x.parquet')": ".",
    "select * from sqlite_scan('{home}/perdure.db', 'turn')": ".",
    "select * from store": "does not exist",
    "select * from query('copy turns to ''{folder}/out.csv''')": ".",
    "select getenv('HOME')": "does not exist",
    "selec": "syntax error",
    "select nope from turns": "nope.*describe episodes",
    "select * from turn": "describe episodes",
    "select 'a' + 1": ".",
    "select {deep}1{shut}": "depth",
    "select \ud800": "no text",
    "select 1 \0": "no text",
    "pivot turns on finish using count(*)": "add IN",
}


@pytest.mark.parametrize("question", HOSTILE)
def test_a_question_can_only_read(full: Store, tmp_path: Path, question: str) -> None:
    archive(full, NOW, quiet)
    folder, secret = tmp_path / "outside", tmp_path / "outside" / "secret.parquet"
    folder.mkdir()
    secret.write_bytes(files(full)[0].read_bytes())
    before = {path: path.read_bytes() for path in full.home.rglob("*") if path.is_file() and "perdure.db-" not in path.name}
    text = question.format(folder=folder, secret=secret, home=full.home, deep="(" * 3000, shut=")" * 3000)
    with pytest.raises(PerdureError, match=f"(?s){HOSTILE[question]}") as caught:
        asked(full, text)
    assert "\n" not in str(caught.value).strip()
    assert [*folder.iterdir()] == [secret]
    assert {path: path.read_bytes() for path in before} == before
    assert asked(full, "select count(*) from turns") == [(11,)]


def test_the_shards_themselves_can_be_read_but_not_written(full: Store) -> None:
    """They are in the home, and what is in them can be asked for anyway."""
    archive(full, NOW, quiet)
    assert asked(full, f"select count(*) from read_parquet('{files(full)[0]}')") == [(12,)]
    with pytest.raises(InputError, match="this is COPY"):
        asked(full, f"copy turns to '{files(full)[0]}'")


def test_a_lost_shard_is_named_and_the_rest_is_answered(store: Store) -> None:
    played = many(store, 4)
    archive(store, NOW, quiet, shard_turns=16)
    files(store)[0].unlink()
    with ask_sql(store, "select count(*), min(episode) from turns") as answer:
        assert list(answer.rows) == [(16, played[16])]
        (why,) = answer.lost
        assert files(store)[0].name in why
    with ask_sql(store, "select count(*) from episodes") as answer:
        assert list(answer.rows) == [(32,)], "their rows are still in the database"
        assert len(answer.lost) == 1


def test_a_home_with_a_quote_in_its_name(store: Store, tmp_path: Path) -> None:
    done_task(store, [1.0])
    archive(store, NOW, quiet)
    moved = tmp_path / "it's; drop -- [x] *"
    store.close()
    store.home.rename(moved)
    with open_store(moved) as again:
        assert asked(again, "select count(*) from turns") == [(1,)]


def test_memory_has_a_limit(full: Store) -> None:
    with (
        pytest.raises(RuntimeFailure, match="needs more than 64 MiB of memory: filter or aggregate more"),
        ask_sql(full, "select list(range) from range(100000000) group by range % 3", memory_bytes=2**26) as answer,
    ):
        list(answer.rows)


def test_a_long_answer_is_read_row_by_row(full: Store) -> None:
    with ask_sql(full, "select range from range(100000000000)") as answer:
        assert [next(answer.rows) for _ in range(3)] == [(0,), (1,), (2,)]


LONG = "select count(*) from range(100000000) a, range(100000000) b where a.range * b.range % 7 = 3"


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def ctrl_c_counts() -> Iterator[None]:
    """A suite that a shell runs in the background ignores SIGINT, and so would the processes that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.processes
@pytest.mark.usefixtures("ctrl_c_counts")
def test_ctrl_c_ends_a_question(full: Store) -> None:
    command = [sys.executable, "-m", "perdure", "sql", LONG, "--home", str(full.home)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    try:
        while _cpu_s(running.pid) < 4:  # by then it is at work, however busy the machine is
            assert running.poll() is None
            time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    finally:
        running.kill()
    assert (running.returncode, out, err) == (130, "", "perdure: interrupted\n")


INTERRUPTED = """
import os, signal, sys
from perdure.agent.cli import main

class Leaving:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

class At:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            Leaving()

sys.meta_path.insert(0, At())
main(sys.argv[2:])
"""
"""Runs a command that is interrupted when it imports a module, and there while an object is cleared away: of an exception that comes up in
such a place Python prints the traceback, and goes on, as if nobody had pressed Ctrl-C."""


@pytest.mark.processes
@pytest.mark.usefixtures("ctrl_c_counts")
@pytest.mark.parametrize("module", ["duckdb", "pyarrow.dataset"])
def test_ctrl_c_while_modules_are_loaded(full: Store, module: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, module, "sql", "select 1", "--home", str(full.home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "perdure: interrupted\n")


def test_texts_that_are_no_utf8_do_not_stop_an_answer(full: Store) -> None:
    full.rows("UPDATE turn SET observation = CAST(x'41ff' AS TEXT) WHERE episode = 1")
    assert asked(full, "select observation from turns where episode = 1") == [("A\ufffd",)]
