"""Any value, in digests and in a store: what reads a store says what is damaged, and never ends by an error of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_utils.utils import sqlite3
from tests.memory.everything import CLOCK, fill
from tests.memory.test_digests import tables

from perdure.memory import environments, gates, jobs, processes, stages, tasks, versions
from perdure.memory.errors import PerdureError
from perdure.memory.exchange.documents import read_documents
from perdure.memory.json_value import to_json
from perdure.memory.layout.digests import canonical, digest_of, register_digests, sealed
from perdure.memory.store import Store, create_store
from perdure.memory.trajectories.episodes import episodes_by_id, list_episodes, success_rates
from perdure.memory.upkeep.integrity import check

BOUNDED = settings(max_examples=150, deadline=None, derandomize=True)
"""The same examples every time."""

texts = st.text(st.characters(exclude_categories=("Cs",)))
values = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), texts, st.binary())

QUESTIONS: tuple[Callable[[Store], object], ...] = (
    environments.list_environments,
    versions.list_versions,
    versions.moves,
    tasks.list_tasks,
    lambda store: [jobs.as_json(job) for job in jobs.list_jobs(store)],
    lambda store: jobs.steps(store, 1),
    lambda store: [gate.as_json() for gate in gates.candidate_gates(store)],
    lambda store: gates.pairs_of(store, 1),
    list_episodes,
    lambda store: episodes_by_id(store, range(1, 13)),
    lambda store: read_documents(store, range(1, 13)),
    lambda store: success_rates(store, "v0"),
    stages.list_stages,
    processes.processes,
    processes.events,
    lambda store: check(store, CLOCK),
)


@BOUNDED
@given(st.lists(values, max_size=4), st.lists(values, max_size=4))
def test_fuzz_only_equal_rows_have_one_form(one: list[Any], other: list[Any]) -> None:
    plain = [[value.encode() if isinstance(value, str) else value for value in row] for row in (one, other)]  # columns have types
    same = len(one) == len(other) and all(type(a) is type(b) and a == b for a, b in zip(*plain, strict=True))
    assert (canonical(one) == canonical(other)) == same


@BOUNDED
@given(st.lists(values, min_size=1, max_size=6))
def test_fuzz_sqlite_computes_the_same_digest(row: list[Any]) -> None:
    conn = sqlite3.connect(":memory:")
    register_digests(conn)
    conn.execute("CREATE TABLE any_table (" + ", ".join(f"c{n} ANY" for n in range(len(row))) + ", digest BLOB) STRICT")
    for statement in sealed("any_table", ", ".join(f"c{n}" for n in range(len(row)))).strip().split("\n"):
        conn.execute(statement)
    conn.execute(f"INSERT INTO any_table VALUES ({', '.join('?' * len(row))}, NULL)", row)
    assert conn.execute("SELECT digest FROM any_table").fetchone() == (digest_of(row),)
    conn.close()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with everything, and without its own constraints."""
    with create_store(tmp_path_factory.mktemp("fuzz") / "home") as store:
        fill(store)
        store.rows("PRAGMA foreign_keys = OFF")
        store.rows("PRAGMA ignore_check_constraints = ON")
        yield store


@BOUNDED
@given(data=st.data())
def test_fuzz_any_value_in_any_cell_is_read_or_named(damaged: Store, data: st.DataObject) -> None:
    known = tables(damaged)
    table = data.draw(st.sampled_from(sorted(known)))
    column = data.draw(st.sampled_from(known[table]))
    ((now,),) = damaged.rows(f'SELECT max("{column}") FROM {table}')
    value = data.draw(st.one_of(values, _near(now)))
    conn = damaged.db.conn
    conn.execute("BEGIN")
    try:
        try:
            conn.execute(f'UPDATE {table} SET "{column}" = ?', (value,))
        except (sqlite3.Error, OverflowError):  # not of the column's type, or a key that is taken
            return
        for question in QUESTIONS:
            with suppress(PerdureError):
                question(damaged)
    finally:
        conn.execute("ROLLBACK")


def _near(value: object) -> st.SearchStrategy[Any]:
    """Values like this one: for JSON, JSON of another form."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        document = json.loads(value)
        keys = list(document) if isinstance(document, dict) else []
        return st.one_of(
            st.recursive(values.filter(lambda one: not isinstance(one, bytes)), lambda inner: st.lists(inner, max_size=2)).map(to_json),
            st.sampled_from(keys or [""]).map(lambda key: to_json({k: v for k, v in document.items() if k != key} if keys else [])),
            st.integers(0, len(value)).map(lambda end: value[:end]),
        )
    return st.just(value)
