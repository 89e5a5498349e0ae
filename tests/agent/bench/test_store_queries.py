"""What is asked of the store again and again goes through an index, whatever its size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.agent.bench.large_store import fill
from perdure.agent.bench.store_queries import COMMANDS, DAEMON, PAGES
from perdure.memory.store import Store, create_store

LARGE = re.compile(r"SCAN (turn|episode|task|e|t)\b(?! USING COVERING INDEX)(?! USING INDEX episode_running)")
"""Reads all rows of a large table; counting in an index alone is quick, and few episodes are running."""

ALL = COMMANDS | DAEMON | PAGES
NEWEST = ("perdure episode list", "perdure task list")
"""These read the last rows of a table, and stop at their limit."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    home: Path = tmp_path_factory.mktemp("home")
    fill(home, 200)
    with create_store(home) as store:
        yield store


def plan(store: Store, sql: str) -> list[str]:
    return [row["detail"] for row in store.rows(f"EXPLAIN QUERY PLAN {sql}")]


@pytest.mark.parametrize("what", [what for what in ALL if what not in NEWEST])
def test_no_question_reads_a_whole_table(store: Store, what: str) -> None:
    asked: list[str] = []
    store.conn.set_trace_callback(asked.append)
    try:
        ALL[what](store)
    finally:
        store.conn.set_trace_callback(None)
    queries = [sql for sql in asked if re.match(r"\s*(SELECT|UPDATE|INSERT|DELETE)", sql)]
    assert queries
    for sql in queries:
        for step in plan(store, sql):
            assert not LARGE.search(step), f"{step}\n{sql}"


def test_a_scan_would_be_seen(store: Store) -> None:
    assert LARGE.search(" ".join(plan(store, "SELECT * FROM episode WHERE success = 1")))
    assert LARGE.search(" ".join(plan(store, "UPDATE task SET error = 'x' WHERE seed = 7")))
