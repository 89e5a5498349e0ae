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
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from secrets import token_hex

from perdure.memory import faults
from perdure.memory.errors import RuntimeFailure
from perdure.memory.exchange.documents import portions
from perdure.memory.files import MAKING, sha256_of
from perdure.memory.history.checked_shards import note_whole
from perdure.memory.history.shard_drafts import chain_of, draft
from perdure.memory.history.shard_files import GROUP_TURNS, shard_file, shard_writer, turn_schema, turns_in
from perdure.memory.history.shard_index import Shelved, begin, forget, make_whole, runs_of, runs_outside, unfinished
from perdure.memory.history.shard_places import ShardPlace, digest_at, new_place, put, remove, require_bucket, shard_place, stamp
from perdure.memory.json_value import Document, record_json, to_json
from perdure.memory.processes import record_event
from perdure.memory.store import FILE_NAME, HISTORY, Store, checkpoint, give_back

SHARD_TURNS = 8 * GROUP_TURNS
"""Turns of one shard: some 200 MB of the store."""
FREED_PAGES = 4096
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
    _remove_leftovers(store, say)
    made: list[ArchivedShard] = []
    damaged: list[int] = []
    turns = dict(_closed(store, before))
    for portion in portions(turns.items(), shard_turns):
        shard, bad = _archive(store, [(episode, turns[episode]) for episode in portion], to)
        damaged += bad
        for episode in bad:
            say(f"episode {episode} differs from its digest and stays: `perdure store check` says where")
        if shard is not None:
            made.append(shard)
            say(f"{shard.turns} turns of {shard.episodes} episodes are in {shard.place}")
    _give_back(store)
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
        SELECT e.id, e.turns FROM json_each(:runs) run
        JOIN episode e ON e.id BETWEEN run.value ->> 0 AND run.value ->> 1
        LEFT JOIN task t ON t.id = e.task LEFT JOIN job j ON j.id = e.job
        WHERE e.state <> 'running' AND e.turns > 0 AND e.started_at < :before
          AND coalesce(t.state, '') NOT IN ('queued', 'leased') AND coalesce(j.state, '') NOT IN ('queued', 'leased', 'running', 'gating')
        ORDER BY e.id
        """,
        {"runs": to_json([list(run) for run in runs_outside(store)]), "before": before},
    )
    return [(row["id"], row["turns"]) for row in rows]


def _archive(store: Store, episodes: Sequence[tuple[int, int]], to: str | None) -> tuple[ArchivedShard | None, list[int]]:
    """Make one shard, and delete the turns that it holds. Returns it, and the episodes that were found damaged and stay."""
    name = f"turns-{episodes[0][0]:09d}-{episodes[-1][0]:09d}-{token_hex(4)}.parquet"
    place = new_place(store.home, to, name)
    with _made(store.home, name) as file:
        held, damaged, turns = _write(store, file, episodes)
        if not held:
            return None, damaged
        size_bytes, digest = file.stat().st_size, sha256_of(file)
        shard = begin(store, place.name)
        try:
            put(place, file)
        except OSError as error:
            raise RuntimeFailure(f"could not write {place.name}: {error.strerror or error}; none of its turns was deleted") from error
    if digest_at(place) != digest:
        raise RuntimeFailure(f"{place.name} differs when it is read back: none of its turns was deleted; check where it lies")
    faults.point("between-shard-and-index")
    with store.write() as conn:
        make_whole(conn, shard, digest, size_bytes, runs_of(one.episode for one in held), turns, held)
        given = (to_json([one.episode for one in held]),)
        deleted = conn.execute("DELETE FROM turn WHERE episode IN (SELECT value FROM json_each(?))", given).rowcount
        if deleted != turns:
            raise RuntimeFailure(f"{place.name} has {turns} turns, and the database {deleted}: nothing was deleted; archive again")
        faults.point("mid-archive")
    _note(store, place)
    checkpoint(store)
    return ArchivedShard(place=place.name, episodes=len(held), turns=turns, size_bytes=size_bytes), damaged


def _write(store: Store, file: Path, episodes: Sequence[tuple[int, int]]) -> tuple[list[Shelved], list[int], int]:
    """Write the file of a shard and compare what is read back. Returns the episodes in it, those that are damaged, and the turns in it."""
    held: list[Shelved] = []
    damaged: list[int] = []
    turns = 0
    with shard_writer(file) as writer:
        for ids in portions(episodes, GROUP_TURNS):
            drafted = draft(store, ids)
            damaged += drafted.damaged
            if drafted.held:
                writer.write_table(drafted.table, row_group_size=max(drafted.table.num_rows, 1))
                held += drafted.held
                turns += drafted.table.num_rows
            faults.point("mid-shard")
    if held and _read_back(file) != [(one.episode, one.chain) for one in held]:
        raise RuntimeFailure(f"{file} differs from the database when it is read back: nothing of it was deleted; check the disk")
    return held, damaged, turns


def _read_back(file: Path) -> list[tuple[int, int]]:
    """The episodes of a file, each with what its digest covers of the turns that are read."""
    found: list[tuple[int, int]] = []
    with shard_file(ShardPlace(name=file.name, file=file, path=str(file))) as opened:
        for group in range(opened.num_row_groups):
            table = opened.read_row_group(group, columns=turn_schema().names)
            rows = (tuple(row.values()) for row in turns_in(table))
            found += [(episode, chain) for episode, turns in groupby(rows, itemgetter(0)) if (chain := chain_of(list(turns))) is not None]
    return found


@contextmanager
def _made(home: Path, name: str) -> Iterator[Path]:
    """A file in `history/` to write a shard to, removed at the end if it has not got its place."""
    made = home / HISTORY / f"{MAKING}{name}"
    try:
        made.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            yield made
        finally:
            made.unlink(missing_ok=True)
    except OSError as error:
        raise RuntimeFailure(f"could not write to {home / HISTORY}: {error.strerror or error}; nothing of it was moved") from error


def _remove_leftovers(store: Store, say: Callable[[str], None]) -> None:
    """Remove what runs that died have left: files without a name, and those whose rows are not whole."""
    for file in (store.home / HISTORY).glob(f"{MAKING}*"):  # its process is dead, because we have the lock
        file.unlink(missing_ok=True)
    for shard, name in unfinished(store).items():
        try:
            remove(shard_place(store.home, name))
        except (RuntimeFailure, OSError) as error:
            say(f"{name} is left over from an interrupted run and could not be removed: {error}")
            continue
        forget(store, shard)


def _note(store: Store, place: ShardPlace) -> None:
    """It was compared just now."""
    seen = stamp(place)
    if seen is not None:
        note_whole(store, place.name, seen)


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
