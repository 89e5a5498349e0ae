"""Rows of the database as the rows of a shard, each first held against its digest, so that nothing damaged is moved as if it were whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from perdure.memory.history.shard_files import PACKED, episode_schema, shard_schema, turn_schema
from perdure.memory.history.shard_index import Shelved
from perdure.memory.json_value import to_json
from perdure.memory.layout.digests import TURN, digest_of, end_of_old, raw_texts, turn_digest
from perdure.memory.layout.packed_lists import unpacked_lists
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

TOKENS = 4
"""Bytes of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardDraft:
    """Some episodes as they would stand in a shard."""

    table: pa.Table
    held: tuple[Shelved, ...]
    """The episodes in it, in their order."""
    damaged: tuple[int, ...]
    """Episodes that are not in it, because a row of theirs differs from its digest."""


def draft(store: Store, episodes: Sequence[int]) -> ShardDraft:
    """These episodes, all read at one moment, by id."""
    given = (to_json(list(episodes)),)
    names = episode_schema().names
    columns = ", ".join(f'"{name}"' for name in names)
    with store.read() as conn, raw_texts(conn):
        of_episodes = conn.execute(
            f"SELECT id, digest, {columns} FROM episode WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id", given
        ).fetchall()
        turns = _turns(conn, given)
        kept: list[tuple[Any, ...]] = []
        held: list[Shelved] = []
        rows: list[tuple[Any, ...]] = []
        damaged: list[int] = []
        for episode in of_episodes:
            its = turns.get(episode[0], [])
            chain = chain_of(its)
            if chain is None or len(its) != episode[2 + names.index("turns")] or episode[1] != digest_of((episode[0], *episode[2:], chain)):
                damaged.append(episode[0])
                continue
            last = its[-1]
            kept.append((episode[2:], len(its)))
            held.append(Shelved(episode=episode[0], tokens=last[2] + (len(last[3]) + len(last[4])) // TOKENS, chain=chain))
            rows += its
    return ShardDraft(table=_table(kept, rows), held=tuple(held), damaged=tuple(damaged))


def _turns(conn: sqlite3.Connection, given: tuple[str]) -> dict[int, list[tuple[Any, ...]]]:
    """The turns of the episodes, with their digests, by episode."""
    sql = f"SELECT {TURN}, digest FROM turn WHERE episode IN (SELECT value FROM json_each(?)) ORDER BY episode, n"
    return {episode: list(its) for episode, its in groupby(conn.execute(sql, given).fetchall(), itemgetter(0))}


def chain_of(turns: Sequence[tuple[Any, ...]]) -> int | None:
    """What the digest of an episode covers of its turns, given as rows; None if one differs from its own, or is missing."""
    last: int | None = None
    old = bool(turns) and turns[0][-1] is None
    for n, turn in enumerate(turns):
        computed = turn_digest(turn[:-1], last)
        if turn[1] != n or turn[-1] != (None if old else computed) or not _whole_numbers(turn):
            return None
        last = computed
    return None if last is None else end_of_old(last) if old else last


def _whole_numbers(turn: Sequence[Any]) -> bool:
    """Whether token ids and log-probs end with a number: the digest of a row that was written so would agree."""
    return not any(len(blob) % TOKENS for blob in turn[3:6])


def _table(episodes: Sequence[tuple[Any, ...]], turns: Sequence[tuple[Any, ...]]) -> pa.Table:
    import pyarrow as pa

    arrays = [_array(field, values) for field, values in zip(turn_schema(), _transposed(turns, len(turn_schema())), strict=True)]
    owner = pa.array([n for n, (_, its) in enumerate(episodes) for _ in range(its)], pa.int64())
    of_episodes = _transposed([values for values, _ in episodes], len(episode_schema()))
    arrays += [pa.array(values, field.type).take(owner) for field, values in zip(episode_schema(), of_episodes, strict=True)]
    return pa.Table.from_arrays(arrays, schema=shard_schema())


def _transposed(rows: Sequence[Sequence[Any]], width: int) -> Iterator[Sequence[Any]]:
    return zip(*rows, strict=True) if rows else iter([()] * width)


def _array(field: pa.Field, values: Sequence[Any]) -> pa.Array:
    import pyarrow as pa

    return unpacked_lists(values, field.type) if field.name in PACKED else pa.array(values, field.type)
