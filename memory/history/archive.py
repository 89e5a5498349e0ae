"""`store archive`: the turns of old episodes move from the database into shards.

**What moves**: turns of episodes that have ended and began before a given time. What stays: those of a task or job that has not ended, and
with it of every gate without a verdict. Nothing else needs to stay, because the rows of episodes do: watch, rates, metrics, the choice of
what to learn and the batches are made of them, and turns are read from both places (`trajectories/turns.py`). So the newest live episodes
may go too, which `prune.py` keeps.

**Nothing is lost and nothing is there twice.** A shard's place is written down, its file is written, read back, compared, synced and named;
then one transaction makes its row whole, names its episodes and deletes their turns. After a death the next run removes the files whose
rows are not whole; the database still has their turns. An episode that differs from its digest is named and stays.

Only the holder of the home's lock archives, because only one process may checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

from perdure.memory import faults
from perdure.memory.errors import RuntimeFailure
from perdure.memory.exchange.documents import portions
from perdure.memory.files import MAKING
from perdure.memory.history.checked_shards import note_whole
from perdure.memory.history.shard_drafts import draft
from perdure.memory.history.shard_files import GROUP_TURNS
from perdure.memory.history.shard_index import Shelved, begin, delete_turns, forget, make_whole, runs_of, runs_outside, unfinished
from perdure.memory.history.shard_places import ShardPlace, new_place, remove, require_bucket, shard_place, stamp
from perdure.memory.history.shard_writing import RowGroups, WrittenShard, write_shard
from perdure.memory.json_value import Document, record_json, to_json
from perdure.memory.processes import record_event
from perdure.memory.store import FILE_NAME, HISTORY, Store, checkpoint, give_back

SHARD_TURNS = 4 * GROUP_TURNS
"""Turns of one shard: some 100 MB of the store."""
FREED_PAGES = 4096
CACHE_KIB = 128 * 1024
"""Of the database, while turns are deleted: with the usual 2 MB the pages that they free are read twice."""
BYTES_A_ROW = 60
"""Of a turn in the database, beside its blobs and texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedShard:
    """A shard that was made."""

    place: str
    episodes: int
    turns: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """The result of `archive` or of its plan."""

    episodes: int
    turns: int
    kept_turns: int
    """That stay in the database."""
    shards: tuple[ArchivedShard, ...]
    damaged: tuple[int, ...]
    """Episodes that stay because a row of theirs differs from its digest."""
    freed_bytes: int

    def as_json(self) -> Document:
        """The output of the command."""
        return record_json(self)


@dataclass(slots=True, kw_only=True)
class _Shard:
    """A shard that is being made: its row, its file and what will be in it."""

    row: int
    place: ShardPlace
    written: Future[WrittenShard | None]
    held: list[Shelved] = field(default_factory=list)
    turns: int = 0


def plan_archive(store: Store, before: float) -> Archived:
    """What `archive` would move, with an estimate of the bytes that it would free. Nothing is changed."""
    closed = _closed(store, before)
    [row] = store.rows(
        """
        SELECT coalesce(sum(length(prompt_ids) + 2 * length(action_ids) + length(observation) + length(action) + :beside), 0) AS size
        FROM turn WHERE episode IN (SELECT value FROM json_each(:ids))
        """,
        {"ids": to_json([episode for episode, _ in closed]), "beside": BYTES_A_ROW},
    )
    turns = sum(its for _, its in closed)
    return Archived(
        episodes=len(closed), turns=turns, kept_turns=_turns(store) - turns, shards=(), damaged=(), freed_bytes=int(row["size"])
    )


def archive(store: Store, before: float, say: Callable[[str], None], *, to: str | None = None, shard_turns: int = SHARD_TURNS) -> Archived:
    """Move the turns of closed episodes that began before `before` (Unix seconds) into shards; `say` gets a line for each.

    `to` is the address of a bucket; None is the home. Raises `InputError` or `RuntimeFailure` if the shards cannot be written there: then
    nothing of that shard was moved.
    """
    if to is not None:
        require_bucket(to)
    size = _size_bytes(store)
    made: list[ArchivedShard] = []
    damaged: list[int] = []
    with _work_folder(store.home), _large_cache(store), ThreadPoolExecutor(1, "shards") as thread:
        _remove_leftovers(store, say)
        turns = dict(_closed(store, before))
        last: _Shard | None = None
        for portion in portions(turns.items(), shard_turns):  # while one is compared and synced, the next one is read
            shard, bad = _write(store, thread, to, [(episode, turns[episode]) for episode in portion])
            damaged += bad
            made += _finish(store, last, say)
            last = shard
        made += _finish(store, last, say)
        _give_back(store)
    for episode in damaged:
        say(f"episode {episode} differs from its digest and stays: `perdure store check` says where")
    if made:
        record_event(store, "archive", "store", f"{sum(one.turns for one in made)} turns were moved to {len(made)} shards")
    return Archived(
        episodes=sum(one.episodes for one in made),
        turns=sum(one.turns for one in made),
        kept_turns=_turns(store),
        shards=tuple(made),
        damaged=tuple(damaged),
        freed_bytes=max(size - _size_bytes(store), 0),
    )


def _closed(store: Store, before: float) -> list[tuple[int, int]]:
    """The episodes whose turns can go, oldest first, each with its number of turns."""
    rows = store.rows(
        """
        SELECT e.id, e.turns FROM json_each(:runs) run CROSS JOIN episode e ON e.id BETWEEN run.value ->> 0 AND run.value ->> 1
        LEFT JOIN task t ON t.id = e.task LEFT JOIN job j ON j.id = e.job
        WHERE e.state <> 'running' AND e.turns > 0 AND e.started_at < :before
          AND coalesce(t.state, '') NOT IN ('queued', 'leased') AND coalesce(j.state, '') NOT IN ('queued', 'leased', 'running', 'gating')
        ORDER BY e.id
        """,
        {"runs": to_json([list(run) for run in runs_outside(store)]), "before": before},
    )
    return [(row["id"], row["turns"]) for row in rows]


def _write(store: Store, thread: ThreadPoolExecutor, to: str | None, episodes: Sequence[tuple[int, int]]) -> tuple[_Shard, list[int]]:
    """Read the rows of a shard and hand them to the thread that writes it. Returns the shard, and the episodes that are damaged."""
    name = f"turns-{episodes[0][0]:09d}-{episodes[-1][0]:09d}-{token_hex(4)}.parquet"
    place = new_place(store.home, to, name)
    groups = RowGroups()
    row = begin(store, place.name)
    shard = _Shard(row=row, place=place, written=thread.submit(write_shard, groups, store.home / HISTORY / f"{MAKING}{name}", place))
    damaged: list[int] = []
    try:
        for ids in portions(episodes, GROUP_TURNS):
            drafted = draft(store, ids)
            damaged += drafted.damaged
            if drafted.held:
                shard.held += drafted.held
                shard.turns += drafted.table.num_rows
                groups.give(drafted.table)
            faults.point("mid-shard")
    finally:
        groups.end()
    return shard, damaged


def _finish(store: Store, shard: _Shard | None, say: Callable[[str], None]) -> list[ArchivedShard]:
    """Once the file is written: in one transaction its row becomes whole, and the turns that it has are deleted."""
    if shard is None:
        return []
    written = shard.written.result()
    if written is None:
        forget(store, shard.row)
        return []
    faults.point("between-shard-and-index")
    with store.write() as conn:
        make_whole(conn, shard.row, written.sha256, written.size_bytes, runs_of(one.episode for one in shard.held), shard.turns, shard.held)
        deleted = delete_turns(conn, shard.row, [one.episode for one in shard.held])
        if deleted != shard.turns:
            raise RuntimeFailure(f"{shard.place.name} has {shard.turns} turns, the database has {deleted}: nothing was deleted; try again")
        faults.point("mid-archive")
    if (seen := stamp(shard.place)) is not None:
        note_whole(store, shard.place.name, seen)
    checkpoint(store)
    say(f"{shard.turns} turns of {len(shard.held)} episodes are in {shard.place.name}")
    return [ArchivedShard(place=shard.place.name, episodes=len(shard.held), turns=shard.turns, size_bytes=written.size_bytes)]


@contextmanager
def _work_folder(home: Path) -> Iterator[None]:
    """The folder that shards are written in; no unfinished file stays in it. We have the lock: nobody else writes there."""
    folder = home / HISTORY
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        _remove_unfinished(folder)
    except OSError as error:
        raise RuntimeFailure(f"cannot write to {folder}: {error.strerror}; nothing was moved") from error
    try:
        yield
    finally:
        _remove_unfinished(folder)


def _remove_unfinished(folder: Path) -> None:
    for left in folder.glob(f"{MAKING}*"):
        left.unlink(missing_ok=True)


def _remove_leftovers(store: Store, say: Callable[[str], None]) -> None:
    """Remove the files of shards that runs which died have begun and not finished."""
    for shard, name in unfinished(store).items():
        try:
            remove(shard_place(store.home, name))
        except (RuntimeFailure, OSError) as error:
            say(f"{name} is left over from an interrupted run and could not be removed: {error}")
            continue
        forget(store, shard)


@contextmanager
def _large_cache(store: Store) -> Iterator[None]:
    before = store.rows("PRAGMA cache_size")[0][0]
    store.conn.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    try:
        yield
    finally:
        store.conn.execute(f"PRAGMA cache_size = {before}")


def _give_back(store: Store) -> None:
    """Return free pages to the file system, in short steps."""
    free = 2**63
    while (left := give_back(store, FREED_PAGES)) < free:
        free = left
        checkpoint(store)


def _turns(store: Store) -> int:
    return int(store.rows("SELECT count(*) AS n FROM turn")[0]["n"])


def _size_bytes(store: Store) -> int:
    return (store.home / FILE_NAME).stat().st_size
