"""Any value and any damage of the file: what reads or writes a store says what is damaged, and never ends by an error of its own.

`tests/agent/commands/test_fuzz_damaged_home.py` does the same with the commands.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.memory.conftest import ADD
from tests.memory.damage import Damage, damages, in_one_file, put
from tests.memory.everything import ANNA, CLOCK, fill, play
from tests.memory.test_digests import stored, tables

from perdure.memory import environments, gates, jobs, processes, stages, tasks, versions, watches
from perdure.memory.changes import list_changes, perform
from perdure.memory.contracts.orders import ProbeOrder
from perdure.memory.errors import PerdureError, RuntimeFailure
from perdure.memory.evidence.dev_scores import known_dev_scores
from perdure.memory.evidence.item_scores import panel_scores
from perdure.memory.exchange.documents import read_documents
from perdure.memory.exchange.export import export
from perdure.memory.json_value import to_json
from perdure.memory.layout.digests import canonical, digest_of, register_digests, sealed, turn_digest
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.trajectories import manifests, rewards
from perdure.memory.trajectories.episodes import episodes_by_id, list_episodes, success_rates
from perdure.memory.trajectories.journal import abort_orphans
from perdure.memory.trajectories.traces import foreign_traces, job_traces, live_traces
from perdure.memory.upkeep.backup import backup
from perdure.memory.upkeep.garbage import needed_versions
from perdure.memory.upkeep.integrity import check
from perdure.memory.upkeep.prune import Keep, prune

BOUNDED = settings(max_examples=150, deadline=None, derandomize=True)
"""The same examples every time."""

texts = st.text(st.characters(exclude_categories=("Cs",)))
GOOD = "good.db"

integers = st.integers(-(2**63), 2**63 - 1)
reals = st.floats(allow_nan=False)
values = st.one_of(st.none(), integers, reals, texts, st.binary())
turns = st.tuples(
    *(integers, integers, integers, st.binary(), st.binary(), st.binary(), texts, texts, st.none() | texts, reals),
    *(st.sampled_from(["stop", "length"]), st.none() | texts, st.none() | integers, st.none() | integers, reals),
)
"""The columns of any turn."""

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
    lambda store: watches.watches(store, "v1"),
    lambda store: watches.played_tasks(store, range(1, 6)),
    lambda store: manifests.manifests(store, 1),
    lambda store: list(live_traces(store, [ADD], 9)),
    lambda store: list(job_traces(store, 1, [ADD], 9)),
    lambda store: [foreign_traces(store, label) for label in ("another pipeline", "an agent", "a chat")],
    lambda store: panel_scores(store, "v0"),
    lambda store: known_dev_scores(store, 1.0),
    lambda store: environments.anchor_of(store, ADD),
    needed_versions,
    processes.pauses,
    processes.alarms,
    list_changes,
    lambda store: check(store, CLOCK),
)

CHANGES: tuple[Callable[[Store], object], ...] = (
    lambda store: tasks.add_tasks(store, ADD, [11, 12], 2, "person"),
    lambda store: tasks.lease_tasks(store, "actor", 2, 60.0, CLOCK),
    lambda store: [play(store, lease, "new", [1.0, 0.0], turns=2) for _, lease in tasks.lease_tasks(store, "actor", 1, 60.0, CLOCK)],
    lambda store: jobs.add_job(store, "new", [ADD], ProbeOrder()),
    lambda store: jobs.lease_job(store, "learner", 60.0, CLOCK),
    lambda store: jobs.cancel_job(store, 3, "a test"),
    lambda store: environments.register(store, ADD, 0.5),
    lambda store: environments.retire(store, ADD),
    lambda store: versions.rollback(store, None, "a test"),
    lambda store: versions.promote(store, "v3", "a test"),
    lambda store: rewards.add_rewards(store, "a test", {1: 0.5, 3: 0.25}),
    lambda store: processes.beat(store, "actor", 7, "playing"),
    lambda store: processes.pause(store, "play", "a test"),
    lambda store: processes.record_event(store, "start", "actor", "a test"),
    lambda store: export(store, store.home.parent / "out.jsonl", "jsonl", replace=True),
    lambda store: export(store, store.home.parent / "out.parquet", "parquet", replace=True),
    lambda store: backup(store, store.home.parent / "copy.db", replace=True),
    lambda store: prune(store, Keep(episodes=4, live=0), lambda line: None),
    lambda store: perform(store, lambda: ("v3", {}), by=ANNA, what="version pin", arguments={"version": "v3"}, reason="é “so”", key="k-1"),
    abort_orphans,
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


@BOUNDED
@given(turns, st.none() | st.integers(0, 2**32 - 1), st.data())
def test_fuzz_every_flipped_bit_of_a_turn_changes_its_digest(turn: tuple[Any, ...], before: int | None, data: st.DataObject) -> None:
    raw = [value.encode() if isinstance(value, str) else value for value in turn]
    assert turn_digest(turn, before) == turn_digest(raw, before)
    column = data.draw(st.sampled_from([n for n, value in enumerate(raw) if value not in (None, b"")]))
    value = raw[column]
    stored = value if isinstance(value, bytes) else struct.pack("<q" if isinstance(value, int) else "<d", value)
    bit = data.draw(st.integers(0, 8 * len(stored) - 1))
    flipped = bytes(byte ^ (1 << bit % 8) if n == bit // 8 else byte for n, byte in enumerate(stored))
    raw[column] = flipped if isinstance(value, bytes) else struct.unpack("<q" if isinstance(value, int) else "<d", flipped)[0]
    if raw[column] != value:  # -0.0 is stored as 0.0
        assert turn_digest(raw, before) != turn_digest(turn, before)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with everything, and without its own constraints."""
    with create_store(tmp_path_factory.mktemp("fuzz") / "home") as store:
        fill(store)
        store.rows("PRAGMA foreign_keys = OFF")
        store.rows("PRAGMA ignore_check_constraints = ON")
        yield store


@pytest.mark.long
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


def test_fuzz_numbers_that_are_torn_and_versions_in_a_circle_are_named(full: Store) -> None:
    """Found by trying many values in every cell, which takes minutes."""
    full.db.conn.execute("PRAGMA ignore_check_constraints = ON")
    full.rows("PRAGMA foreign_keys = OFF")
    for sql, question, named in (
        ("UPDATE turn SET action_ids = x'010203' WHERE n = 0", lambda: episodes_by_id(full, [1]), "turn 0 of episode 1 is damaged"),
        ("UPDATE turn SET prompt_ids = x'010203'", lambda: read_documents(full, [1]), "end within a number"),
        ("UPDATE foreign_turn SET messages = '0'", lambda: foreign_traces(full, "another pipeline"), "imported episode . is damaged"),
        ("UPDATE foreign_turn SET answer = '{}'", lambda: foreign_traces(full, "an agent"), "imported episode . is damaged"),
        ("UPDATE foreign_turn SET continues = 1", lambda: foreign_traces(full, "an agent"), "imported episode . is damaged"),
        ("UPDATE foreign_episode SET tools = '[0]'", lambda: foreign_traces(full, "an agent"), "imported episode . is damaged"),
        ("UPDATE job SET options = '{'", lambda: gates.candidate_gates(full), "is damaged .malformed JSON."),
        ("UPDATE environment SET anchor = 'v9'", lambda: needed_versions(full), "a row that names a version is damaged"),
        ("UPDATE version SET parent = 'v3' WHERE name = 'v3'", lambda: needed_versions(full), "v3 is an ancestor of itself"),
        ("UPDATE version SET parent = 'v3', state = 'candidate'", lambda: versions.served_ancestor(full, "v1"), "v3 is an ancestor of"),
    ):
        full.rows("BEGIN")
        full.rows(sql)
        with pytest.raises(RuntimeFailure, match=named):
            question()
        full.rows("ROLLBACK")


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


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with everything in its store, and a copy of the store beside it."""
    home = tmp_path_factory.mktemp("pages") / "home"
    with create_store(home) as store:
        fill(store)
    (home.parent / GOOD).write_bytes(in_one_file(home))
    return home


@settings(BOUNDED, max_examples=60)
@given(
    damages("bit", "bit", "zeros", "ones", "another file", "misplaced page", "cut"),
    st.lists(st.integers(0, len(QUESTIONS + CHANGES) - 1), min_size=3, max_size=6),
)
def test_fuzz_a_damaged_file_is_named_by_whatever_reads_or_writes_it(closed: Path, damage: Damage, asked: list[int]) -> None:
    home, good = closed, (closed.parent / GOOD).read_bytes()
    put(home, damage.done_to(good))
    for opens in (open_store, create_store):
        with suppress(PerdureError), opens(home) as store:
            for question in asked:
                with suppress(PerdureError):
                    (QUESTIONS + CHANGES)[question](store)


@settings(BOUNDED, max_examples=60)
@given(damages("bit", "bit", "zeros", "ones", "another file"))
def test_fuzz_a_check_finds_all_damage_that_changes_a_value(closed: Path, damage: Damage) -> None:
    """Of bits and sectors. If a whole page is replaced by that of an empty table, rows may be missing, and no digest tells of them."""
    home, good = closed, (closed.parent / GOOD).read_bytes()
    put(home, good)
    with open_store(home) as store:
        whole = stored(store)
    put(home, damage.done_to(good))
    with suppress(PerdureError), open_store(home) as store:
        if not any(finding.level == "error" for finding in check(store, CLOCK)):
            assert stored(store) == whole
