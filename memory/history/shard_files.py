"""The files of the history: one row for each turn, with all that the database had of it, and with the columns of its episode.

Turns keep the columns of the table `turn`, digests included, so that they come back exactly; each token of a prompt stands once here too.
The columns of the episode (`episode_*`) are there so that SQL needs no join: they never change once an episode has ended. The row of the
episode stays in the database. Left out: which shards there are (`shard_index.py`), and how one is made from rows (`shard_drafts.py` and
`shard_writing.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.memory.errors import ShardLost
from perdure.memory.history.checked_shards import require_whole
from perdure.memory.history.shard_index import Shard, episodes_left
from perdure.memory.history.shard_places import ShardPlace, shard_place
from perdure.memory.layout.packed_lists import packed_lists
from perdure.memory.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

OF_EPISODE = "episode_"
"""How the columns begin that are of the episode."""
PACKED = ("prompt_ids", "action_ids", "logprobs")
GROUP_TURNS = 8192
"""Turns of one row group: what is read at least for one episode, some 20 MB; with smaller ones SQL over many shards takes longer."""


def turn_schema() -> pa.Schema:
    """The columns of a turn: those of the table `turn` in its order. `prompt_ids` are the tokens after the `shared` ones."""
    import pyarrow as pa

    text, integer, real, ids = pa.string(), pa.int64(), pa.float64(), pa.list_(pa.int32())
    return pa.schema(
        [
            ("episode", integer),
            ("n", integer),
            ("shared", integer),
            ("prompt_ids", ids),
            ("action_ids", ids),
            ("logprobs", pa.list_(pa.float32())),
            ("observation", text),
            ("action", text),
            ("invalid", text),
            ("reward", real),
            ("finish", text),
            ("version", text),
            ("step_job", integer),
            ("step_n", integer),
            ("made_at", real),
            ("digest", integer),
        ]
    )


def episode_schema() -> pa.Schema:
    """The columns of an episode in a shard, without their prefix: those of the table `episode`, without its id and digest."""
    import pyarrow as pa

    text, integer, real = pa.string(), pa.int64(), pa.float64()
    texts = ("environment", "group", "purpose", "version", "state", "stop_reason", "error", "code", "instructions")
    reals = ("temperature", "total_reward", "score", "started_at", "finished_at")
    names = (
        *("environment", "seed", "group", "member", "seat", "purpose", "task", "job", "attempt", "version", "step_job", "step_n"),
        *("temperature", "state", "turns", "total_reward", "success", "score", "stop_reason", "error", "started_at", "finished_at"),
        *("code", "instructions"),
    )
    return pa.schema([(name, text if name in texts else real if name in reals else integer) for name in names])


def shard_schema() -> pa.Schema:
    """All columns of a shard."""
    import pyarrow as pa

    return pa.schema([*turn_schema(), *(field.with_name(f"{OF_EPISODE}{field.name}") for field in episode_schema())])


@contextmanager
def shard_writer(path: Path) -> Iterator[Any]:
    """A Parquet writer of a new shard. Each table that it is given becomes one row group."""
    import pyarrow.parquet as pq

    schema = shard_schema()
    # values of an episode stand in all of its rows, and so in a dictionary; token ids and texts would only fill one
    repeated = [name for name in schema.names if name.startswith(OF_EPISODE)] + ["episode", "finish", "version", "step_job", "step_n"]
    # the four bytes of a number are seldom alike, but those of the same place are: a seventh smaller, and quicker
    split = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in PACKED}
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=repeated, column_encoding=split) as writer:
        yield writer


def shard_rows(store: Store, shard: Shard, episodes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The turns of these episodes in a shard, as rows of the table `turn`, by episode and number.

    Raises `ShardLost` if the shard is missing or is not as it was written.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    require_whole(store, shard)
    place = shard_place(store.home, shard.place)
    names, wanted = turn_schema().names, sorted(episodes)
    with shard_file(place) as file:
        for group in range(file.num_row_groups):
            seen = file.metadata.row_group(group).column(0).statistics
            if ours := [episode for episode in wanted if seen.min <= episode <= seen.max]:
                table = file.read_row_group(group, columns=names)
                yield from turns_in(table.filter(pc.is_in(table["episode"], pa.array(ours, pa.int64()))))


def shard_answers(store: Store, shard: Shard) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Episode, number, packed token ids and UTF-8 of the text of each answer in a shard whose episode has not left the store.

    Raises `ShardLost` as `shard_rows`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    require_whole(store, shard)
    kept = pa.array(episodes_left(store, shard), pa.int64()) if shard.pruned_episodes else None
    with shard_file(shard_place(store.home, shard.place)) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["episode", "n", "action_ids", "action"])
            if kept is not None:
                table = table.filter(pc.is_in(table["episode"], kept))
            for row in turns_in(table):
                yield row["episode"], row["n"], row["action_ids"], row["action"].encode()


def turns_in(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a table of turns, with packed numbers."""
    if table.num_rows:
        whole = table.combine_chunks()
        columns = [packed_lists(whole[name].chunk(0)) if name in PACKED else whole[name].to_pylist() for name in whole.column_names]
        for values in zip(*columns, strict=True):
            yield dict(zip(whole.column_names, values, strict=True))


@contextmanager
def shard_file(place: ShardPlace) -> Iterator[Any]:
    """The opened Parquet file at a place. Raises `ShardLost` if it cannot be read."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(place.path, filesystem=place.filesystem) as file:
            yield file
    except (OSError, ValueError, KeyError) as error:  # Arrow raises these
        raise ShardLost(f"the shard {place.name} cannot be read: {str(error).partition(chr(10))[0]}") from error
