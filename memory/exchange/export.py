"""Export: episodes that have ended, as Parquet with typed columns or as JSON lines; one row per episode, its turns inside it.

Both formats hold the same documents (`memory/exchange/documents.py`). They are written in portions, so that memory stays bounded, and under
another name first, so that a file of the final name is complete. Left out: episodes that are being played, and those of other pipelines
(`memory/exchange/import_traces.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.exchange.documents import document_schema, portions, read_documents
from perdure.memory.files import making
from perdure.memory.history.checked_shards import lost_episodes
from perdure.memory.json_value import Document, record_json, to_json
from perdure.memory.records import Purpose
from perdure.memory.store import Store, refuse_inside

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "jsonl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The result of an export."""

    path: Path
    episodes: int
    turns: int
    size_bytes: int
    lost: int = 0
    """Episodes that are left out, because a shard that has their turns cannot be read."""
    lost_shards: tuple[str, ...] = ()
    """What is wrong with those shards."""

    def as_json(self) -> Document:
        """The output of the command."""
        return record_json(self)


def export(
    store: Store,
    path: Path,
    form: Format,
    *,
    environment: str | None = None,
    version: str | None = None,
    purpose: Purpose | None = None,
    since: float | None = None,
    replace: bool = False,
) -> Exported:
    """Write the episodes of an environment, a version and a purpose that began at or after `since` (Unix seconds); by default, all.

    Episodes whose turns are in a shard that cannot be read are left out and counted.

    Raises `InputError` if no episode matches, or if the file exists and `replace` is False, and `RuntimeFailure` if it cannot be written.
    """
    refuse_inside(store, path)
    matching = store.rows(
        """
        SELECT id, turns FROM episode
        WHERE state <> 'running' AND (:environment IS NULL OR environment = :environment) AND (:version IS NULL OR version = :version)
          AND (:purpose IS NULL OR purpose = :purpose) AND (:since IS NULL OR started_at >= :since)
        ORDER BY id
        """,
        {"environment": environment, "version": version, "purpose": purpose, "since": since},
    )
    if not matching:
        raise InputError("no ended episode matches: `perdure episode list` shows the episodes")
    lost = lost_episodes(store, [row["id"] for row in matching])
    matching = [row for row in matching if row["id"] not in lost]
    why = tuple(sorted(set(lost.values())))
    if not matching:
        raise RuntimeFailure(f"none of the {len(lost)} episodes can be exported: {why[0]}")
    with making(path, replace=replace) as made:
        with document_writer(made, form) as write:
            for ids in portions((row["id"], row["turns"]) for row in matching):
                table = read_documents(store, ids)
                if table.num_rows != len(ids):
                    raise RuntimeFailure("episodes were pruned while they were exported: export again")
                write(table)
        size_bytes = made.stat().st_size
    turns = sum(row["turns"] for row in matching)
    return Exported(path=path, episodes=len(matching), turns=turns, size_bytes=size_bytes, lost=len(lost), lost_shards=why)


@contextmanager
def document_writer(path: Path, form: Format) -> Iterator[Callable[[pa.Table], None]]:
    """A function that appends a table of documents to a new file."""
    if form == "parquet":
        import pyarrow.parquet as pq

        # with a dictionary of token ids zstd no longer sees that prompts repeat: a third larger and seven times slower
        with pq.ParquetWriter(path, document_schema(), compression="zstd", use_dictionary=False) as writer:
            yield writer.write_table
        return
    with path.open("w", encoding="utf-8", newline="\n") as lines:
        yield lambda table: lines.writelines(f"{to_json(document)}\n" for document in table.to_pylist())
