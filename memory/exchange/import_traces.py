"""Import: trajectories of other pipelines, from Parquet or JSON lines in the form of docs/store.md, for learners on given traces.

They go into tables of their own (`foreign_episode`, `foreign_turn`), so that nothing that counts, samples, gates or scores our episodes
sees them. The whole file is first checked and read into a temporary database, which locks nobody out; then one short transaction copies it,
all or nothing. Importing the same bytes again changes nothing. Of an export of Perdure, episodes that are never learned from are skipped:
those that did not complete, were played on held-out seeds, or had the right answer in the prompt.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]  # pysqlite3 if it is installed

from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.exchange.trace_format import ForeignEpisode, Place, parse_episode
from perdure.memory.files import MAKING, sha256_of
from perdure.memory.json_value import Document, JsonValue, record_json, to_json
from perdure.memory.store import Store

NOT_COMPLETED = "not completed"
HELD_OUT = "held out"
HINTED = "hinted"


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

    def as_json(self) -> Document:
        """The output of the command."""
        return record_json(self)


def import_file(store: Store, path: Path, label: str) -> Imported:
    """Import a file. Raises `InputError` with file, row and key if it is not as documented; then nothing is imported."""
    try:
        digest = sha256_of(path)
        known = _batch_of(store, digest)
        if known is not None:
            return known
        with _staged(store):
            passed_over, mended = _stage(store, path)
            with store.write():
                return _batch_of(store, digest) or _copy(store, path, digest, label, passed_over, mended)
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


def _stage(store: Store, path: Path) -> tuple[dict[str, int], int]:
    """Read and check the whole file. Returns how many episodes were skipped, by reason, and how many had a text mended."""
    passed_over: Counter[str] = Counter()
    staged = mended = 0
    with store.read() as conn:
        for place, document in _documents(path):
            episode = parse_episode(document, place)
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
    return dict(passed_over), mended


def _insert(conn: sqlite3.Connection, row: int, episode: ForeignEpisode) -> None:
    conn.execute(
        """
        INSERT INTO staged.new_foreign_episode
            (row, name, environment, seed, "group", sampler, base_model, base_hash, total_reward, success, instructions)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
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
        ),
    )
    conn.executemany(
        """
        INSERT INTO staged.new_foreign_turn
            (episode, n, messages, observation, prompt_ids, action, action_ids, logprobs, reward, finish)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
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
            )
            for n, turn in enumerate(episode.turns)
        ],
    )


def _copy(store: Store, path: Path, digest: str, label: str, passed_over: dict[str, int], mended: int) -> Imported:
    """Copy the staged rows. An episode's id is its row in the file plus the largest id in use."""
    with store.write() as conn:
        (last,) = conn.execute("SELECT coalesce(max(id), 0) FROM foreign_episode").fetchone()
        sql = "INSERT INTO import_batch (path, sha256, label, imported_at) VALUES (?, ?, ?, ?) RETURNING id"
        batch = int(store.rows(sql, (str(path), digest, label, time.time()))[0]["id"])
        columns = 'row, name, environment, seed, "group", sampler, base_model, base_hash, total_reward, success, instructions'
        episodes = conn.execute(
            f"INSERT INTO foreign_episode (id, batch, {columns}) SELECT ? + row, ?, {columns} FROM staged.new_foreign_episode",
            (last, batch),
        ).rowcount
        columns = "n, messages, observation, prompt_ids, action, action_ids, logprobs, reward, finish"
        turns = conn.execute(
            f"INSERT INTO foreign_turn (episode, {columns}) SELECT ? + episode, {columns} FROM staged.new_foreign_turn", (last,)
        ).rowcount
    return Imported(batch=batch, label=label, new=True, episodes=episodes, turns=turns, passed_over=passed_over, mended=mended)


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
    return Imported(batch=row["id"], label=row["label"], new=False, episodes=row["episodes"], turns=row["turns"], passed_over={}, mended=0)


def _documents(path: Path) -> Iterator[tuple[Place, JsonValue]]:
    """The rows of a file, each with its place. The format is told by the first bytes, not by the name."""
    with path.open("rb") as stream:
        start = stream.read(4)
    if start == b"PAR1":
        yield from _parquet_rows(path)
        return
    try:
        with gzip.open(path) if start[:2] == b"\x1f\x8b" else path.open("rb") as lines:
            yield from _json_rows(path, lines)
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
