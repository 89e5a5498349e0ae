"""Rows of the database as the rows of a shard, each first held against its digest, so that nothing damaged is moved as if it were whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perdure.memory.history.shard_files import PACKED, episode_schema, shard_schema, turn_schema
from perdure.memory.history.shard_index import Shelved
from perdure.memory.json_value import to_json
from perdure.memory.layout.digests import TURN, digest_of, end_of_old, raw_texts, turn_digest
from perdure.memory.layout.packed_lists import unpacked_lists
from perdure.memory.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

TOKEN_BYTES = 4


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
        turns = conn.execute(
            f"SELECT {TURN}, digest FROM turn WHERE episode IN (SELECT value FROM json_each(?)) ORDER BY episode, n", given
        ).fetchall()
    chains = _chains(turns)
    count = 2 + names.index("turns")
    held: list[Shelved] = []
    kept: list[tuple[Any, ...]] = []
    damaged: list[int] = []
    for id_, digest, *values in of_episodes:
        chain, end, its = chains.get(id_, (None, 0, 0))
        if chain is None or its != values[count - 2] or digest != digest_of((id_, *values, chain)):
            damaged.append(id_)
            continue
        last = turns[end]
        kept.append((values, its))
        held.append(Shelved(episode=id_, tokens=last[2] + (len(last[3]) + len(last[4])) // TOKEN_BYTES, chain=chain))
    if damaged:
        whole = {one.episode for one in held}
        turns = [turn for turn in turns if turn[0] in whole]
    return ShardDraft(table=_table(kept, turns), held=tuple(held), damaged=tuple(damaged))


def _chains(turns: Sequence[Sequence[Any]]) -> dict[int, tuple[int | None, int, int]]:
    """Of each episode: what its digest covers of its turns, or None if a turn differs from its own digest; where its last turn is in the
    list; and how many it has."""
    chains: dict[int, tuple[int | None, int, int]] = {}
    episode, n, last, old, right = None, 0, None, False, True
    for place, turn in enumerate(turns):
        if turn[0] != episode:
            episode, n, last, old, right = turn[0], 0, None, turn[-1] is None, True
        computed = turn_digest(turn[:-1], last)
        torn = (len(turn[3]) | len(turn[4]) | len(turn[5])) % TOKEN_BYTES  # ends within a number: the digest was written so
        right = right and turn[1] == n and turn[-1] == (None if old else computed) and not torn
        last, n = computed, n + 1
        chains[turn[0]] = (end_of_old(last) if old else last) if right else None, place, n
    return chains


def _table(episodes: Sequence[tuple[Sequence[Any], int]], turns: Sequence[Sequence[Any]]) -> pa.Table:
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
