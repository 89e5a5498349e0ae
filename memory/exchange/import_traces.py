"""Import: trajectories of other pipelines, from Parquet or JSON, in Perdure's own form or another's (docs/store.md), to learn from.

They go into tables of their own (`foreign_episode`, `foreign_turn`), so that nothing that counts, samples, gates or scores our episodes
sees them. The whole file is first checked and read into a temporary database, which locks nobody out; then one short transaction copies it,
all or nothing. Importing the same bytes again changes nothing. Of an export of Perdure, episodes that are never learned from are skipped:
those that did not complete, were played on held-out seeds, or had the right answer in the prompt.
"""

from __future__ import annotations

import codecs
import gzip
import json
import os
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.exchange.atif_form import atif_episode
from perdure.memory.exchange.checked_row import Place
from perdure.memory.exchange.conversation import Unread
from perdure.memory.exchange.foreign_records import ForeignEpisode
from perdure.memory.exchange.openai_form import openai_episode
from perdure.memory.exchange.sharegpt_form import sharegpt_episode
from perdure.memory.exchange.trace_format import parse_episode
from perdure.memory.files import MAKING, sha256_of
from perdure.memory.json_value import Document, JsonValue, record_json, to_json
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.store import Store

NOT_COMPLETED = "not completed"
HELD_OUT = "held out"
HINTED = "hinted"

PERDURE = "perdure"
"""The name of Perdure's own form."""
READERS: Mapping[str, Callable[[JsonValue, Place, str, Unread], ForeignEpisode]] = {
    "openai": openai_episode,
    "atif": atif_episode,
    "sharegpt": sharegpt_episode,
}
"""Readers of other forms: a row, its place, the label, and what is passed over."""
FORMS = (PERDURE, *READERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The result of an import."""

    batch: int
    label: str
    new: bool
    """False if the same bytes had been imported before: then nothing was changed."""
    episodes: int
    turns: int
    passed_over: dict[str, int]
    """How many episodes of the file were skipped, by reason."""
    mended: int
    """Rows with half of a character (a lone surrogate) in a text: it became '?'."""
    unread: dict[str, int]
    """How often something in a row was passed over, by its key."""

    def as_json(self) -> Document:
        """The output of the command."""
        return record_json(self)


def import_file(store: Store, path: Path, label: str, form: str = PERDURE) -> Imported:
    """Import a file of one of `FORMS`. Raises `InputError` with file, row and key if it is not as documented; then nothing is imported."""
    try:
        digest = sha256_of(path)
        known = _batch_of(store, digest)
        if known is not None:
            return known
        with _staged(store):
            counts = _stage(store, path, label, form)
            with store.write():
                return _batch_of(store, digest) or _copy(store, path, digest, label, counts)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; give a file of Parquet or JSON lines") from error


@contextmanager
def _staged(store: Store) -> Iterator[None]:
    """Empty copies of the two tables, in a temporary file that is already unlinked and so ends with this process.

    SQLite's own temporary tables are in memory in some builds, as in pysqlite3's.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=store.home, prefix=MAKING)
    except OSError as error:
        raise RuntimeFailure(f"cannot write to {store.home}: {error.strerror}; free some space, or allow writing there") from error
    os.close(descriptor)
    try:
        store.rows("ATTACH ? AS staged", (name,))
    finally:
        os.unlink(name)
    try:
        store.rows("PRAGMA staged.journal_mode = OFF")
        store.rows("PRAGMA staged.synchronous = OFF")
        for table in ("foreign_episode", "foreign_turn"):
            store.rows(f"CREATE TABLE staged.new_{table} AS SELECT * FROM {table} LIMIT 0")
        yield
    finally:
        store.rows("DETACH staged")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """What was left out or changed."""

    passed_over: dict[str, int]
    mended: int
    unread: dict[str, int]


def _stage(store: Store, path: Path, label: str, form: str) -> _Counts:
    """Read and check the whole file."""
    passed_over: Counter[str] = Counter()
    unread: Unread = Counter()
    staged = mended = 0
    with store.read() as conn:
        for place, document in _documents(path, is_lines=form == PERDURE):
            episode = parse_episode(document, place) if form == PERDURE else READERS[form](document, place, label, unread)
            if episode.state != "completed":
                passed_over[NOT_COMPLETED] += 1
            elif episode.purpose in ("gate", "probe"):
                passed_over[HELD_OUT] += 1
            elif episode.purpose == "hinted":
                passed_over[HINTED] += 1
            else:
                _insert(conn, place.row, episode)
                staged += 1
                mended += place.mended
    if not staged:
        why = ", ".join(f"{number} {reason}" for reason, number in passed_over.items())
        raise InputError(f"{path} has no episode to learn from" + (f" ({why})" if why else "") + ": docs/store.md shows the form")
    return _Counts(passed_over=dict(passed_over), mended=mended, unread=dict(unread))


def _insert(conn: sqlite3.Connection, row: int, episode: ForeignEpisode) -> None:
    conn.execute(
        """
        INSERT INTO staged.new_foreign_episode
            (row, name, environment, seed, "group", sampler, base_model, base_hash, total_reward, success, instructions, tools)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        """,
        (
            row,
            episode.name,
            episode.environment,
            episode.seed,
            episode.group,
            episode.sampler,
            episode.base_model,
            episode.base_hash,
            episode.total_reward,
            episode.success,
            episode.instructions,
            episode.tools,
        ),
    )
    conn.executemany(
        """
        INSERT INTO staged.new_foreign_turn
            (episode, n, messages, observation, prompt_ids, action, action_ids, logprobs, reward, finish, answer, continues)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        """,
        [
            (
                row,
                n,
                turn.messages,
                turn.observation,
                turn.prompt_ids,
                turn.action,
                turn.action_ids,
                turn.logprobs,
                turn.reward,
                turn.finish,
                turn.answer,
                int(turn.continues),
            )
            for n, turn in enumerate(episode.turns)
        ],
    )


def _copy(store: Store, path: Path, digest: str, label: str, counts: _Counts) -> Imported:
    """Copy the staged rows. An episode's id is its row in the file plus the largest id in use."""
    with store.write() as conn:
        (last,) = conn.execute("SELECT coalesce(max(id), 0) FROM foreign_episode").fetchone()
        sql = "INSERT INTO import_batch (path, sha256, label, imported_at) VALUES (?, ?, ?, ?) RETURNING id"
        batch = int(store.rows(sql, (str(path), digest, label, time.time()))[0]["id"])
        columns = 'row, name, environment, seed, "group", sampler, base_model, base_hash, total_reward, success, instructions, tools'
        episodes = conn.execute(
            f"INSERT INTO foreign_episode (id, batch, {columns}) SELECT ? + row, ?, {columns} FROM staged.new_foreign_episode",
            (last, batch),
        ).rowcount
        columns = "n, messages, observation, prompt_ids, action, action_ids, logprobs, reward, finish, answer, continues"
        turns = conn.execute(
            f"INSERT INTO foreign_turn (episode, {columns}) SELECT ? + episode, {columns} FROM staged.new_foreign_turn", (last,)
        ).rowcount
    return Imported(
        batch=batch,
        label=label,
        new=True,
        episodes=episodes,
        turns=turns,
        passed_over=counts.passed_over,
        mended=counts.mended,
        unread=counts.unread,
    )


def _batch_of(store: Store, digest: str) -> Imported | None:
    """The batch that has these bytes; None if they were not imported yet."""
    rows = store.rows(
        """
        SELECT b.id, b.label, (SELECT count(*) FROM foreign_episode f WHERE f.batch = b.id) AS episodes,
               (SELECT count(*) FROM foreign_turn t JOIN foreign_episode f ON f.id = t.episode WHERE f.batch = b.id) AS turns
        FROM import_batch b WHERE b.sha256 = ?
        """,
        (digest,),
    )
    if not rows:
        return None
    (row,) = rows
    return Imported(
        batch=row["id"],
        label=row["label"],
        new=False,
        episodes=row["episodes"],
        turns=row["turns"],
        passed_over={},
        mended=0,
        unread={},
    )


def _documents(path: Path, *, is_lines: bool) -> Iterator[tuple[Place, JsonValue]]:
    """The rows of a file, each with its place. The format is told by the first bytes, not by the name.

    JSON is lines; unless `is_lines`, it may also be one list of rows, or one row that takes many lines.
    """
    with path.open("rb") as stream:
        start = stream.read(4)
    if start == b"PAR1":
        yield from _parquet_rows(path)
        return
    try:
        with cast(IO[bytes], gzip.open(path)) if start[:2] == b"\x1f\x8b" else path.open("rb") as lines:
            yield from _json_rows(path, lines) if is_lines or not _is_whole(lines) else _rows_of_whole(path, lines.read())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path} is a damaged gzip file ({_first_line(error)}): make it again") from error


def _parquet_rows(path: Path) -> Iterator[tuple[Place, JsonValue]]:
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64):
                for document in batch.to_pylist():
                    row += 1
                    yield Place(file=path, row=row), document
    except (OSError, ValueError) as error:  # Arrow raises these
        raise InputError(f"{path} is damaged or not a Parquet file, after row {row}: {_first_line(error)}") from error


def _is_whole(lines: IO[bytes]) -> bool:
    """Whether a file is one JSON value: a list, or an object over many lines. Leaves the file at its start."""
    filled = (line.removeprefix(codecs.BOM_UTF8).strip() for line in lines if line.strip())
    first, second = next(filled, b""), next(filled, b"")
    lines.seek(0)
    return first.startswith(b"[") or first == b"{" or (first.startswith(b"{") and second.startswith(b'"'))


def _rows_of_whole(path: Path, content: bytes) -> Iterator[tuple[Place, JsonValue]]:
    place = Place(file=path, row=1)
    whole = _parse_line(content, place)
    for row, document in enumerate(whole if isinstance(whole, list) else [whole], start=1):
        yield Place(file=path, row=row, mended=b"\\u" in content and not _is_utf8(document)), document


def _json_rows(path: Path, lines: Iterable[bytes]) -> Iterator[tuple[Place, JsonValue]]:
    for row, line in enumerate(lines, start=1):
        if line.strip():
            document = _parse_line(line, Place(file=path, row=row))
            yield Place(file=path, row=row, mended=b"\\u" in line and not _is_utf8(document)), document


def _parse_line(line: bytes, place: Place) -> JsonValue:
    try:
        document: JsonValue = json.loads(line.decode("utf-8-sig"), parse_constant=_no_constant, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        raise place.bad(f"is not JSON in UTF-8 ({_first_line(error)}); give JSON lines or Parquet, as docs/store.md shows") from error
    return document


def _is_utf8(document: JsonValue) -> bool:
    try:
        to_json(document).encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_key_twice(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"names {next(key for key in keys if keys.count(key) > 1)!r} twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"JSON has no number {name}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
