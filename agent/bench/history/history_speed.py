"""The history: turns a second of `store archive`, and seconds of `perdure sql` over many turns in shards.

Archiving is timed on a store of `large_store.py`, beside two peers that do a part of it: reading the same rows, and writing them to Parquet
without digests, read-back or index. SQL is timed beside DuckDB alone on the same files. Those shards are filled without the journal: each
has the same short turns under other episodes. Its index and the rows of its episodes are those of any home. Left out: a bucket, where the
network decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.agent.bench.large_store import ENVIRONMENTS, fill
from perdure.agent.bench.measure import median_ratio, timed
from perdure.memory import environments, versions
from perdure.memory.files import sha256_of
from perdure.memory.history.archive import SHARD_TURNS, archive
from perdure.memory.history.checked_shards import note_whole
from perdure.memory.history.read_sql import ask_sql
from perdure.memory.history.shard_files import GROUP_TURNS, OF_EPISODE, shard_schema, shard_writer
from perdure.memory.history.shard_index import Shelved, begin, make_whole, shards
from perdure.memory.history.shard_places import new_place, stamp
from perdure.memory.json_value import Document
from perdure.memory.layout.digests import TURN
from perdure.memory.store import HISTORY, Store, create_store, open_store

if TYPE_CHECKING:
    import pyarrow as pa

ARCHIVED_EPISODES = 20_000
"""Of ten turns each."""
TURNS = 8
"""Of an episode in the shards that SQL reads."""
MEANS = "select environment, avg(reward) from turns group by 1"
QUESTIONS = {
    "a mean of turns per environment": MEANS,
    "a mean of episodes per environment": "select environment, count(*), avg(success) from episodes group by 1",
    "one episode": "select n, observation, action from turns where episode = 77",
}
ALONE = f"select {OF_EPISODE}environment, avg(reward) from read_parquet(?) group by 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedSql:
    """One question over all shards."""

    what: str
    seconds: list[float]
    """One for each repeat, each on a new connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryBench:
    """The measurements of the history."""

    turns: int
    archive_s: float
    archive_cpu_s: float
    """Of all threads: on a busy machine it says more than the clock."""
    read_s: float
    """Reading the same rows alone."""
    write_s: float
    """Writing them to Parquet alone."""
    bytes_before: int
    shard_bytes: int
    sql_turns: int
    sql_shards: int
    sql: list[AskedSql]
    duckdb_s: list[float]
    """The first question put to DuckDB alone, in turn with ours."""
    ratio: float
    """Ours over DuckDB alone, the median."""

    def as_json(self) -> Document:
        return {**asdict(self), "archived_per_s": self.turns / self.archive_s}


def bench_history(folder: Path, sql_turns: int, *, repeats: int, say: Callable[[str], None]) -> HistoryBench:
    """Archive a store of 200,000 turns, and ask one of `sql_turns` turns in shards."""
    home = folder / "archived"
    say(f"filling a store with {ARCHIVED_EPISODES} episodes")
    fill(home, ARCHIVED_EPISODES)
    with create_store(home) as store:
        say("reading and writing its turns alone")
        read_s, write_s = _peers(store, folder / "alone.parquet")
        say("archiving it")
        began = time.process_time()
        done, archive_s = timed(lambda: archive(store, time.time() + 1, say))
        cpu_s = time.process_time() - began
    many = folder / "many"
    say(f"filling shards with {sql_turns} turns")
    _fill_shards(many, sql_turns, say)
    say("asking them")
    asked, alone = _ask(many, repeats)
    with open_store(many) as store:
        found = shards(store)
    return HistoryBench(
        turns=done.turns,
        archive_s=archive_s,
        archive_cpu_s=cpu_s,
        read_s=read_s,
        write_s=write_s,
        bytes_before=done.freed_bytes,
        shard_bytes=sum(shard.size_bytes for shard in done.shards),
        sql_turns=sum(shard.turns for shard in found),
        sql_shards=len(found),
        sql=asked,
        duckdb_s=alone,
        ratio=median_ratio(zip(asked[0].seconds, alone, strict=True)),
    )


def _peers(store: Store, path: Path) -> tuple[float, float]:
    """Seconds of reading all rows alone, and of writing them to Parquet alone."""
    rows, read_s = timed(lambda: store.conn.execute(f"SELECT {TURN}, digest FROM turn ORDER BY episode, n").fetchall())
    _, write_s = timed(lambda: _write_alone(rows, path))
    return read_s, write_s


def _write_alone(rows: list[tuple[Any, ...]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(str(n), _kind(value)) for n, value in enumerate(rows[0])])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(rows), GROUP_TURNS):
            columns = zip(*rows[start : start + GROUP_TURNS], strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.table(arrays, schema))


def _kind(value: object) -> pa.DataType:
    import pyarrow as pa

    match value:
        case bytes():
            return pa.binary()
        case int():
            return pa.int64()
        case float():
            return pa.float64()
    return pa.string()


def _ask(home: Path, repeats: int) -> tuple[list[AskedSql], list[float]]:
    """Each question `repeats` times, each on a new connection; and the first one put to DuckDB alone."""
    import duckdb

    seconds: dict[str, list[float]] = {what: [] for what in QUESTIONS}
    alone: list[float] = []
    with open_store(home) as store:
        files = [str(home / shard.place) for shard in shards(store)]
    for _ in range(repeats):
        for what, question in QUESTIONS.items():
            seconds[what].append(timed(partial(_answer, home, question))[1])
        alone.append(timed(lambda: duckdb.connect().execute(ALONE, [files]).fetchall())[1])
    return [AskedSql(what=what, seconds=times) for what, times in seconds.items()], alone


def _answer(home: Path, question: str) -> None:
    with open_store(home, reading=True) as store, ask_sql(store, question) as answer:
        list(answer.rows)


def _fill_shards(home: Path, turns: int, say: Callable[[str], None]) -> None:
    """A home with this number of turns in shards, and none in the database."""
    of_one = SHARD_TURNS // TURNS
    episodes = turns // TURNS
    with create_store(home) as store:
        versions.add_initial(store, "bench", "hash-of-bench")
        for name in ENVIRONMENTS:
            environments.register(store, name)
        (home / HISTORY).mkdir()
        model = _model(of_one)
        store.conn.execute("PRAGMA synchronous = OFF")
        for first in range(1, episodes + 1, of_one):
            count = min(of_one, episodes + 1 - first)
            _fill_shard(store, model.slice(0, count * TURNS), first, count)
            say(f"{first + count - 1} of {episodes} episodes")


def _fill_shard(store: Store, model: pa.Table, first: int, count: int) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    place = new_place(store.home, None, f"turns-{first:09d}.parquet")
    assert place.file is not None
    shard = begin(store, place.name)
    table = model.set_column(0, "episode", pc.add(model["episode"], pa.scalar(first, pa.int64())))
    with shard_writer(place.file) as writer:
        writer.write_table(table, row_group_size=GROUP_TURNS)
    with store.write() as conn:
        conn.executemany(_INSERT, _episodes(first, count))
        held = [Shelved(episode=first + n, tokens=0, chain=0) for n in range(count)]
        make_whole(conn, shard, sha256_of(place.file), place.file.stat().st_size, [(first, first + count - 1)], count * TURNS, held)
    if (seen := stamp(place)) is not None:
        note_whole(store, place.name, seen)


_INSERT = """
INSERT INTO episode (id, environment, seed, "group", member, purpose, attempt, version, temperature, state, turns, success, started_at)
VALUES (?, ?, ?, ?, ?, 'live', 1, 'v0', 1.0, 'completed', ?, ?, ?)
"""


def _episodes(first: int, count: int) -> Iterator[tuple[Any, ...]]:
    for id_ in range(first, first + count):
        yield id_, ENVIRONMENTS[id_ % len(ENVIRONMENTS)], id_, f"task-{id_}", 0, TURNS, id_ % 3 == 0, 1e9 + id_


def _model(episodes: int) -> pa.Table:
    """The turns of one shard, of the episodes 0 to `episodes` - 1."""
    import pyarrow as pa

    rows = episodes * TURNS
    owner = [n // TURNS for n in range(rows)]
    values: dict[str, list[Any]] = {
        "episode": owner,
        "n": [n % TURNS for n in range(rows)],
        "shared": [0] * rows,
        "prompt_ids": [[n % 49_152, *range(10)] for n in range(rows)],
        "action_ids": [[n % 49_152, 7, 2] for n in range(rows)],
        "logprobs": [[-n % 97 / 50, -0.25, -0.5] for n in range(rows)],
        "observation": [f"Guess a number; {n} is too large." for n in range(rows)],
        "action": [f"{n % 1000}" for n in range(rows)],
        "reward": [n % 7 / 6 for n in range(rows)],
        "finish": ["stop"] * rows,
        "version": ["v0"] * rows,
        "made_at": [1e9 + n for n in range(rows)],
        "digest": [n * 2_654_435_761 % 2**32 for n in range(rows)],
        f"{OF_EPISODE}environment": [ENVIRONMENTS[n % len(ENVIRONMENTS)] for n in owner],
        f"{OF_EPISODE}seed": owner,
        f"{OF_EPISODE}group": [f"task-{n}" for n in owner],
        f"{OF_EPISODE}purpose": ["live"] * rows,
        f"{OF_EPISODE}version": ["v0"] * rows,
        f"{OF_EPISODE}temperature": [1.0] * rows,
        f"{OF_EPISODE}state": ["completed"] * rows,
        f"{OF_EPISODE}turns": [TURNS] * rows,
        f"{OF_EPISODE}success": [int(n % 3 == 0) for n in owner],
        f"{OF_EPISODE}started_at": [1e9 + n for n in owner],
    }
    return pa.table([pa.array(values.get(field.name, [None] * rows), field.type) for field in shard_schema()], shard_schema())
