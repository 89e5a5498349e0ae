"""The index of shards in the database: which there are, and which episodes have their turns in one.

A shard is written in two steps. First its row says where it will be; once the file is whole and synced, one transaction makes the row
whole, names its episodes in `shelved` and deletes their turns. So a file whose row is not whole is a leftover, and each turn is in one
place at any moment. Left out: the files (`shard_files.py`), and the order of these steps (`archive.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from perdure.memory.json_value import to_json
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.store import Store, reading_row

Run = tuple[int, int]
"""Ids of episodes that follow each other, both ends included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A whole shard."""

    id: int
    place: str
    sha256: str
    size_bytes: int
    runs: tuple[Run, ...]
    """The ids of its episodes."""
    episodes: int
    turns: int
    pruned_episodes: int
    """Of its episodes, those that have left the store since: no one reads them."""
    pruned_turns: int
    made_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelved:
    """What the index keeps of an episode."""

    episode: int
    tokens: int
    """Of the whole conversation."""
    chain: int
    """What the episode's digest covers of its turns (`layout/digests.py`)."""


def shards(store: Store) -> list[Shard]:
    """All whole shards, oldest first."""
    return [_shard(row) for row in store.rows("SELECT * FROM shard WHERE state = 'whole' ORDER BY id")]


def unfinished(store: Store) -> dict[int, str]:
    """The places of shards that were begun and not finished, by id."""
    return {row["id"]: row["place"] for row in store.rows("SELECT id, place FROM shard WHERE state = 'writing'")}


def shards_of(store: Store, episodes: Sequence[int]) -> dict[int, int]:
    """The shard of each of these episodes; without those whose turns are in the database."""
    rows = store.rows("SELECT episode, shard FROM shelved WHERE episode IN (SELECT value FROM json_each(?))", (to_json(list(episodes)),))
    return {row["episode"]: row["shard"] for row in rows}


def get_shards(store: Store, ids: Iterable[int]) -> list[Shard]:
    """Whole shards by their ids."""
    rows = store.rows("SELECT * FROM shard WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id", (to_json(sorted(set(ids))),))
    return [_shard(row) for row in rows]


def turns_in_shards(store: Store) -> int:
    """How many turns can be read from shards."""
    [row] = store.rows("SELECT coalesce(sum(turns - pruned_turns), 0) AS n FROM shard WHERE state = 'whole'")
    return int(row["n"])


def episodes_left(store: Store, shard: Shard) -> list[int]:
    """The episodes of a shard that have not left the store, by id. Reads the index over its whole range of ids."""
    first, last = shard.runs[0][0], shard.runs[-1][1]
    rows = store.rows("SELECT episode FROM shelved WHERE episode BETWEEN ? AND ? AND shard = ? ORDER BY episode", (first, last, shard.id))
    return [row["episode"] for row in rows]


def begin(store: Store, place: str) -> int:
    """Write down that a shard will be written there. Returns its id."""
    with store.write():
        return int(store.rows("INSERT INTO shard (place, made_at) VALUES (?, ?) RETURNING id", (place, time.time()))[0]["id"])


def delete_turns(conn: sqlite3.Connection, shard: int, episodes: Sequence[int]) -> int:
    """Delete the turns of these episodes, which are in a shard, in the current transaction. Returns how many they were."""
    [before] = conn.execute(_HIGHEST).fetchone()
    deleted = conn.execute("DELETE FROM turn WHERE episode IN (SELECT value FROM json_each(?))", (to_json(list(episodes)),)).rowcount
    [after] = conn.execute(_HIGHEST).fetchone()
    conn.execute("UPDATE shard SET numbers_back = ? WHERE id = ?", (before - after, shard))
    return int(deleted)


_HIGHEST = "SELECT coalesce(max(rowid), 0) FROM turn"


def turns_ever(store: Store) -> int:
    """How many turns were ever written, without counting them: a new row is one above the highest, and by how much that fell is noted."""
    [row] = store.rows(f"SELECT ({_HIGHEST}) + (SELECT coalesce(sum(numbers_back), 0) FROM shard) AS n")
    return int(row["n"])


def make_whole(
    conn: sqlite3.Connection, shard: int, sha256: str, size_bytes: int, runs: Sequence[Run], turns: int, held: Sequence[Shelved]
) -> None:
    """Make the row of a shard whole, and name its episodes, in the current transaction."""
    conn.execute(
        "UPDATE shard SET state = 'whole', sha256 = ?, size_bytes = ?, runs = ?, episodes = ?, turns = ? WHERE id = ?",
        (sha256, size_bytes, to_json([list(run) for run in runs]), len(held), turns, shard),
    )
    conn.executemany(
        "INSERT INTO shelved (episode, shard, tokens, chain) VALUES (?, ?, ?, ?)",
        [(one.episode, shard, one.tokens, one.chain) for one in held],
    )


def forget(store: Store, shard: int) -> None:
    """Remove the row of a shard that was not finished."""
    with store.write() as conn:
        conn.execute("DELETE FROM shard WHERE id = ?", (shard,))


def mark_gone(store: Store, shard: int) -> None:
    """Note that no episode of a shard is left, and that it may be gone."""
    with store.write() as conn:
        conn.execute("UPDATE shard SET state = 'gone' WHERE id = ?", (shard,))


def count_pruned(conn: sqlite3.Connection, episodes: Sequence[int]) -> None:
    """Note, in the current transaction, that these episodes leave the store. Before their rows go."""
    conn.execute(
        """
        UPDATE shard SET pruned_episodes = pruned_episodes + gone.episodes, pruned_turns = pruned_turns + gone.turns
        FROM (SELECT s.shard, count(*) AS episodes, sum(e.turns) AS turns FROM shelved s JOIN episode e ON e.id = s.episode
              WHERE s.episode IN (SELECT value FROM json_each(?)) GROUP BY s.shard) gone
        WHERE gone.shard = shard.id
        """,
        (to_json(list(episodes)),),
    )


def runs_of(ids: Iterable[int]) -> list[Run]:
    """Ascending ids as runs."""
    runs: list[Run] = []
    for id_ in ids:
        if runs and runs[-1][1] == id_ - 1:
            runs[-1] = (runs[-1][0], id_)
        else:
            runs.append((id_, id_))
    return runs


def runs_outside(store: Store) -> list[Run]:
    """The ids between which episodes can lie whose turns are in no shard. Costs one row for each shard, not for each episode."""
    return list(_between(sorted(run for shard in shards(store) for run in shard.runs)))


def _between(runs: Iterable[Run]) -> Iterator[Run]:
    start = -(2**63)
    for first, last in runs:
        if first > start:
            yield start, first - 1
        start = max(start, last + 1)
    yield start, 2**63 - 1


def _shard(row: sqlite3.Row) -> Shard:
    with reading_row(f"shard {row['id']}"):
        runs = tuple((int(first), int(last)) for first, last in json.loads(row["runs"]))
    return Shard(
        id=row["id"],
        place=row["place"],
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        runs=runs,
        episodes=row["episodes"],
        turns=row["turns"],
        pruned_episodes=row["pruned_episodes"],
        pruned_turns=row["pruned_turns"],
        made_at=row["made_at"],
    )
