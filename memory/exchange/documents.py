"""Episodes as documents: the rows of exports and archives, one per episode, with all that the store has of it.

Packed blobs become Arrow arrays directly, without a Python object for each number, so that many turns are read quickly. A table holds a
bounded number of turns (`portions`). docs/store.md says what the columns mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from perdure.memory.json_value import to_json
from perdure.memory.layout.packed_lists import unpacked_lists
from perdure.memory.store import Store
from perdure.memory.trajectories.turns import read_sampler, turn_rows
from perdure.memory.versions import INITIAL

if TYPE_CHECKING:
    import pyarrow as pa

TURNS_AT_ONCE = 2000
"""Turns of one table: some tens of MB if prompts are long."""


def document_schema() -> pa.Schema:
    """The columns of a document with their types. Times are Unix seconds."""
    import pyarrow as pa

    text, integer, real, flag, ids = pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.list_(pa.int32())
    turn = pa.struct(
        [
            ("n", integer),
            ("shared", integer),
            ("observation", text),
            ("prompt_ids", ids),
            ("action", text),
            ("action_ids", ids),
            ("logprobs", pa.list_(pa.float32())),
            ("reward", real),
            ("finish", text),
            ("invalid", text),
            ("sampler", text),
            ("made_at", real),
            ("digest", text),
        ]
    )
    batch = pa.struct([("job", integer), ("attempt", integer), ("n", integer), ("on_policy", flag), ("digest", text)])
    reward = pa.struct([("source", text), ("value", real), ("made_at", real), ("digest", text)])
    return pa.schema(
        [
            ("id", integer),
            ("environment", text),
            ("seed", integer),
            ("group", text),
            ("member", integer),
            ("seat", integer),
            ("purpose", text),
            ("state", text),
            ("sampler", text),
            ("base_model", text),
            ("base_hash", text),
            ("temperature", real),
            ("task", integer),
            ("job", integer),
            ("attempt", integer),
            ("total_reward", real),
            ("success", flag),
            ("score", real),
            ("stop_reason", text),
            ("error", text),
            ("started_at", real),
            ("finished_at", real),
            ("code", text),
            ("instructions", text),
            ("digest", text),
            ("turns", pa.list_(turn)),
            ("batches", pa.list_(batch)),
            ("rewards", pa.list_(reward)),
        ]
    )


def portions(episodes: Iterable[tuple[int, int]], turns: int = TURNS_AT_ONCE) -> Iterator[list[int]]:
    """Split episodes, given as (id, number of turns), into portions of at most `turns` turns. A longer episode is a portion by itself."""
    portion: list[int] = []
    size = 0
    for episode, its_turns in episodes:
        if portion and size + its_turns > turns:
            yield portion
            portion, size = [], 0
        portion.append(episode)
        size += max(its_turns, 1)
    if portion:
        yield portion


def read_documents(store: Store, episodes: Sequence[int]) -> pa.Table:
    """These episodes, ordered by id, all read at one moment. Missing ones are left out."""
    import pyarrow as pa

    with store.read():
        rows = store.rows(_EPISODES, {"ids": to_json(list(episodes)), "initial": INITIAL})
        ids = [row["id"] for row in rows]
        turns = list(turn_rows(store, ids))
        lists = {"batches": store.rows(_BATCHES, (to_json(ids),)), "rewards": store.rows(_REWARDS, (to_json(ids),))}
    schema = document_schema()
    turn = schema.field("turns").type.value_type
    turn_arrays = [_turn_column(field, turns) for field in turn]
    columns = [_column(field, rows) for field in schema if field.name not in ("turns", *lists)]
    columns.append(_lists(ids, [row["episode"] for row, _ in turns], pa.StructArray.from_arrays(turn_arrays, fields=list(turn))))
    for name, items in lists.items():
        item = schema.field(name).type.value_type
        arrays = [_column(field, items) for field in item]
        columns.append(_lists(ids, [row["episode"] for row in items], pa.StructArray.from_arrays(arrays, fields=list(item))))
    return pa.Table.from_arrays(columns, schema=schema)


_EPISODES = """
SELECT e.*, v.base_model, v.base_hash
FROM episode e LEFT JOIN version v ON v.name = :initial
WHERE e.id IN (SELECT value FROM json_each(:ids)) ORDER BY e.id
"""

_BATCHES = """
SELECT episode, job, attempt, n, on_policy, digest FROM manifest
WHERE episode IN (SELECT value FROM json_each(?)) ORDER BY episode, job, attempt, n
"""

_REWARDS = """
SELECT episode, source, value, made_at, digest FROM reward
WHERE episode IN (SELECT value FROM json_each(?)) ORDER BY episode, source
"""


def _turn_column(field: pa.Field, turns: Sequence[tuple[Any, bytes]]) -> pa.Array:
    if field.name == "prompt_ids":
        return unpacked_lists([prompt for _, prompt in turns], field.type)
    if field.name in ("action_ids", "logprobs"):
        return unpacked_lists([row[field.name] for row, _ in turns], field.type)
    return _column(field, [row for row, _ in turns])


def _column(field: pa.Field, rows: Sequence[Any]) -> pa.Array:
    import pyarrow as pa

    if field.name == "sampler":
        return pa.array([str(read_sampler(row)) for row in rows], field.type)
    if field.name == "digest":
        return pa.array([None if row["digest"] is None else _hexadecimal(row["digest"]) for row in rows], field.type)
    if pa.types.is_boolean(field.type):
        return pa.array([bool(row[field.name]) for row in rows], field.type)
    return pa.array([row[field.name] for row in rows], field.type)


def _hexadecimal(digest: object) -> str:
    """A digest as documents have it; one that is damaged as it is."""
    if isinstance(digest, bytes):
        return digest.hex()
    return f"{digest:08x}" if isinstance(digest, int) else str(digest)


def _lists(owners: Sequence[int], members: Sequence[int], values: pa.Array) -> pa.Array:
    """A list of values for each owner. `members` names the owner of each value, in the order of `owners`."""
    import pyarrow as pa

    sizes = dict.fromkeys(owners, 0)
    for owner in members:
        sizes[owner] += 1
    return pa.ListArray.from_arrays(pa.array([0, *accumulate(sizes.values())], pa.int32()), values)
