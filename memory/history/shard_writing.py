"""Writing one shard, in a thread of its own: row groups as they come, then all is read back and compared, hashed, synced and named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Semaphore
from typing import TYPE_CHECKING

from perdure.memory.errors import RuntimeFailure
from perdure.memory.files import sha256_of
from perdure.memory.history.shard_files import shard_file, shard_writer
from perdure.memory.history.shard_places import ShardPlace, digest_at, put

if TYPE_CHECKING:
    import pyarrow as pa

AHEAD = 2
"""Row groups that may wait to be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenShard:
    """A file that lies where it belongs."""

    sha256: str
    size_bytes: int


class RowGroups:
    """The row groups on their way to a shard. `give` waits while too many are waiting."""

    def __init__(self) -> None:
        self._groups: SimpleQueue[pa.Table | None] = SimpleQueue()
        self._room = Semaphore(AHEAD)

    def give(self, group: pa.Table) -> None:
        self._room.acquire()
        self._groups.put(group)

    def end(self) -> None:
        """There is no further one."""
        self._groups.put(None)

    def take(self) -> pa.Table | None:
        """The next one; None at the end."""
        group = self._groups.get()
        self._room.release()
        return group


def write_shard(groups: RowGroups, file: Path, place: ShardPlace) -> WrittenShard | None:
    """Write all groups to `file`, and give it its place; None if there were none.

    Raises `RuntimeFailure` if it cannot be written, or differs when it is read back; takes all groups nevertheless.
    """
    try:
        kept = _write(groups, file)
        if not kept:
            return None
        if not _as_given(file, kept):
            raise RuntimeFailure(f"{file} differs when it is read back: nothing of it was deleted; check the disk")
        written = WrittenShard(sha256=sha256_of(file), size_bytes=file.stat().st_size)
        put(place, file)
    except OSError as error:
        raise RuntimeFailure(f"could not write {place.name}: {error.strerror or error}; none of its turns was deleted") from error
    if place.file is None and digest_at(place) != written.sha256:
        raise RuntimeFailure(f"{place.name} differs when it is read back: none of its turns was deleted; check its store")
    return written


def _write(groups: RowGroups, file: Path) -> list[pa.Table]:
    kept: list[pa.Table] = []
    ended = False
    try:
        with shard_writer(file) as writer:
            while (group := groups.take()) is not None:
                writer.write_table(group, row_group_size=group.num_rows)
                kept.append(group)
            ended = True
    finally:
        while not ended and groups.take() is not None:
            pass
    return kept


def _as_given(file: Path, kept: list[pa.Table]) -> bool:
    with shard_file(ShardPlace(name=file.name, file=file, path=str(file))) as opened:
        return opened.num_row_groups == len(kept) and all(_same(opened.read_row_group(n), table) for n, table in enumerate(kept))


def _same(read: pa.Table, given: pa.Table) -> bool:
    """Bit for bit: a log-prob that is not a number equals itself."""
    return read.schema.names == given.schema.names and all(
        _bits(mine.combine_chunks()).equals(_bits(theirs.combine_chunks())) for mine, theirs in zip(read, given, strict=True)
    )


def _bits(array: pa.Array) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_floating(array.type):
        return array.view(pa.int64() if array.type == pa.float64() else pa.int32())
    if pa.types.is_list(array.type):
        return pa.ListArray.from_arrays(array.offsets, _bits(array.values))
    return array
