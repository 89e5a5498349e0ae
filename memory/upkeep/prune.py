"""Pruning: old episodes are moved to Parquet files under `archive/` in the home.

**What stays**: running episodes; those of a task or job that has not ended; the newest live ones of the serving version, from which the
daemon decides what to learn and when; and the newest of all, because SQLite would reuse its id. A group stays as long as one of its
members does. Gates and their pairs stay (they hold scores, not episodes), and so do tasks, which the stream counts. The batches and later
rewards of an episode go into the archive with it. Its id is never reused, so that it cannot enter a second on-policy batch.

**Nothing is lost.** Episodes go in portions, so that a nearly full disk is enough. A portion is written to a file of its own, synced,
named, read back and compared with the store; only episodes that compare equal are deleted, in short transactions. An episode that gets a
reward meanwhile stays, even if the rest of its group goes. After a death in between, the next run finds what is archived already, compares
it, and deletes it without archiving it again. Turns in a shard of the history are read from there, and the shard goes once none of its
episodes is left; episodes whose shard cannot be read stay.

Only the holder of the home's lock prunes, because only one process may checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.memory import faults
from perdure.memory.errors import RuntimeFailure
from perdure.memory.exchange.document_digests import changed_in_table
from perdure.memory.exchange.documents import document_schema, portions, read_documents
from perdure.memory.exchange.export import document_writer
from perdure.memory.files import MAKING, making
from perdure.memory.history.checked_shards import lost_episodes
from perdure.memory.history.shard_index import count_pruned, mark_gone, shards
from perdure.memory.history.shard_places import shard_place
from perdure.memory.json_value import Document, record_json, to_json
from perdure.memory.processes import record_event
from perdure.memory.store import ARCHIVE, FILE_NAME, Store, checkpoint, give_back
from perdure.memory.trajectories.episodes import counts

KEEP_DAYS = 30.0
KEEP_LIVE = 10_000
"""The newest live episodes of the serving version that always stay."""

FILE_TURNS = 50_000
"""Turns of one archive: about 100 MB of the store."""

DELETED_TURNS = 2_000
"""Turns that one transaction deletes: other writers wait a fraction of a second."""

FREED_PAGES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """The episodes that a person wants to keep beside those that are needed. Exactly one of the first two is given."""

    since: float | None = None
    """Episodes that began at or after this time (Unix seconds)."""
    episodes: int | None = None
    """This many of the newest episodes."""
    live: int = KEEP_LIVE
    """The newest live episodes of the serving version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """The result of a prune or of its plan."""

    episodes: int
    turns: int
    kept: int
    """Episodes that stay in the store."""
    archives: tuple[Path, ...]
    """The files that the episodes are in now."""
    freed_bytes: int

    def as_json(self) -> Document:
        """The output of the command."""
        return record_json(self)


def plan(store: Store, keep: Keep) -> Pruned:
    """What `prune` would do, with an estimate of the bytes that it would free. Nothing is changed."""
    prunable = _prunable(store, keep)
    (size,) = store.rows(
        """
        SELECT coalesce(sum(length(prompt_ids) + 2 * length(action_ids) + length(observation) + length(action)), 0) FROM turn
        WHERE episode IN (SELECT value FROM json_each(?))
        """,
        (to_json([episode for episode, _ in prunable]),),
    )
    return _pruned(prunable, [], kept=counts(store)["episodes"] - len(prunable), freed_bytes=size[0])


def prune(
    store: Store, keep: Keep, say: Callable[[str], None], *, file_turns: int = FILE_TURNS, deleted_turns: int = DELETED_TURNS
) -> Pruned:
    """Archive and delete the episodes that need not stay; `say` gets a line for each archive. For the holder of the home's lock.

    Raises `RuntimeFailure` if an archive cannot be written or differs when it is read back: then nothing of that portion was deleted.
    """
    before = _size_bytes(store)
    left = dict(_prunable(store, keep))
    lost = lost_episodes(store, list(left))
    for why in sorted(set(lost.values())):
        say(f"{why}; its episodes stay")
    left = {episode: turns for episode, turns in left.items() if episode not in lost}
    judged = _judged(store, left)
    gone: list[tuple[int, int]] = []
    used: list[Path] = []
    for path in archives(store.home):  # an earlier run may have died before it deleted what it had archived
        try:
            again = _archived(store, path, left.keys())
        except RuntimeFailure as error:
            say(f"{error}; those of its episodes that are still in the store are archived again")
            continue
        if again:
            say(f"{len(again)} episodes are in {path.name} already, from an earlier run")
            gone += _delete(store, [(episode, left.pop(episode)) for episode in again], judged, deleted_turns)
            used.append(path)
    for portion in portions(left.items(), file_turns):
        path = _archive(store, [(episode, left[episode]) for episode in portion])
        if _archived(store, path, set(portion)) != portion:
            raise RuntimeFailure(f"{path} differs from the store when it is read back: none of its episodes was deleted; check the disk")
        say(f"{len(portion)} episodes are in {path.name}")
        gone += _delete(store, [(episode, left[episode]) for episode in portion], judged, deleted_turns)
        used.append(path)
    _remove_empty_shards(store, say)
    _give_back(store)
    if used:
        record_event(store, "prune", "store", f"{len(gone)} episodes were moved to {len(used)} files in {ARCHIVE}/")
    return _pruned(gone, used, kept=counts(store)["episodes"], freed_bytes=max(before - _size_bytes(store), 0))


def archives(home: Path) -> list[Path]:
    """The archives of a home, ordered by their first episodes."""
    return sorted((home / ARCHIVE).glob("episodes-*.parquet"))


def archived_ids(path: Path) -> list[int]:
    """The ids of the episodes in an archive. Raises `RuntimeFailure` if the file is damaged."""
    with _opened(path) as file:
        return list(file.read(columns=["id"])["id"].to_pylist())


def changed_in_archive(path: Path) -> Iterator[str]:
    """The parts of the episodes in an archive that differ from their digests. Raises `RuntimeFailure` if the file is damaged."""
    with _opened(path) as file:
        for group in range(file.num_row_groups):
            yield from changed_in_table(file.read_row_group(group))


def _prunable(store: Store, keep: Keep) -> list[tuple[int, int]]:
    """The episodes that may go, oldest first, each with its number of turns. The docstring of this file says which stay."""
    rows = store.rows(
        """
        WITH stays AS (
            SELECT e."group" FROM episode e LEFT JOIN task t ON t.id = e.task LEFT JOIN job j ON j.id = e.job
            WHERE e.state = 'running' OR t.state IN ('queued', 'leased') OR j.state IN ('queued', 'leased', 'running', 'gating')
               OR e.started_at >= :since OR e.id = (SELECT max(id) FROM episode)
            UNION ALL
            SELECT "group" FROM (SELECT "group" FROM episode ORDER BY id DESC LIMIT :episodes)
            UNION ALL
            SELECT "group" FROM (
                SELECT e."group" FROM episode e JOIN version v ON v.name = e.version
                WHERE v.state = 'serving' AND e.purpose = 'live' AND e.state = 'completed'
                ORDER BY e.id DESC LIMIT :live
            )
        )
        SELECT id, turns FROM episode WHERE "group" NOT IN (SELECT "group" FROM stays) ORDER BY id
        """,
        {"since": keep.since, "episodes": keep.episodes or 0, "live": keep.live},
    )
    return [(row["id"], row["turns"]) for row in rows]


def _archive(store: Store, episodes: Sequence[tuple[int, int]]) -> Path:
    """Write an archive, named by its first and last episode, so that archives that people have moved keep unique names."""
    folder = store.home / ARCHIVE
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for left in folder.glob(f"{MAKING}*"):  # its process is dead, because we have the lock
            left.unlink()
    except OSError as error:
        raise RuntimeFailure(f"cannot write to {folder}: {error.strerror}; nothing was pruned") from error
    name = f"episodes-{episodes[0][0]:09d}-{episodes[-1][0]:09d}"
    path = folder / f"{name}.parquet"
    again = 2
    while path.exists():  # it is damaged, or from before a backup was restored
        path = folder / f"{name}-{again}.parquet"
        again += 1
    with making(path, replace=False) as made, document_writer(made, "parquet") as write:
        for ids in portions(episodes):
            write(read_documents(store, ids))
    return path


def _archived(store: Store, path: Path, candidates: Set[int]) -> list[int]:
    """The episodes among `candidates` that are in an archive exactly as in the store, ordered by id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    equal: list[int] = []
    with _opened(path) as file:
        if file.schema_arrow.names != document_schema().names:
            return []  # an older Perdure wrote it, without digests
        for group in range(file.num_row_groups):
            ours = sorted(candidates & set(file.read_row_group(group, columns=["id"])["id"].to_pylist()))
            if ours:
                table = file.read_row_group(group).cast(document_schema())
                table, mine = table.filter(pc.is_in(table["id"], pa.array(ours))), read_documents(store, ours)
                if table.equals(mine):
                    equal += ours
                else:
                    equal += [episode for n, episode in enumerate(ours) if table.slice(n, 1).equals(mine.slice(n, 1))]
    return equal


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, ValueError, KeyError) as error:  # Arrow raises these
        raise RuntimeFailure(f"{path} is damaged or not an archive: {str(error).partition(chr(10))[0]}") from error


def _judged(store: Store, episodes: Iterable[int]) -> dict[int, list[tuple[str, float, float]]]:
    """The later rewards of these episodes, for those that have any: source, value and time."""
    rows = store.rows(
        "SELECT episode, source, value, made_at FROM reward WHERE episode IN (SELECT value FROM json_each(?)) ORDER BY episode, source",
        (to_json(list(episodes)),),
    )
    rewards: dict[int, list[tuple[str, float, float]]] = {}
    for row in rows:
        rewards.setdefault(row["episode"], []).append((row["source"], row["value"], row["made_at"]))
    return rewards


def _delete(store: Store, episodes: Sequence[tuple[int, int]], judged: Mapping[int, object], at_once: int) -> list[tuple[int, int]]:
    """Delete episodes, given as (id, number of turns), with all that belongs to them. Returns those that were deleted.

    An episode that got a reward after `judged` was read stays, because the archive does not have that reward.
    """
    gone: list[tuple[int, int]] = []
    turns = dict(episodes)
    for portion in portions(episodes, at_once):
        faults.point("mid-prune")
        with store.write() as conn:
            now = _judged(store, portion)
            ids = [episode for episode in portion if now.get(episode) == judged.get(episode)]
            given = (to_json(ids),)
            count_pruned(conn, ids)
            conn.execute("DELETE FROM shelved WHERE episode IN (SELECT value FROM json_each(?))", given)
            conn.execute("DELETE FROM manifest WHERE episode IN (SELECT value FROM json_each(?))", given)
            conn.execute("DELETE FROM reward WHERE episode IN (SELECT value FROM json_each(?))", given)
            conn.execute("DELETE FROM turn WHERE episode IN (SELECT value FROM json_each(?))", given)
            conn.execute("DELETE FROM episode WHERE id IN (SELECT value FROM json_each(?))", given)
        gone += [(episode, turns[episode]) for episode in ids]
        checkpoint(store)
    return gone


def _remove_empty_shards(store: Store, say: Callable[[str], None]) -> None:
    """Remove the shards of which no episode is left. What is in a bucket may be used by another home too, and stays."""
    for shard in shards(store):
        if shard.pruned_episodes == shard.episodes:
            place = shard_place(store.home, shard.place)
            if place.file is not None:
                place.file.unlink(missing_ok=True)
            else:
                say(f"{shard.place} is no longer needed by this home; it was not removed")
            mark_gone(store, shard.id)


def _give_back(store: Store) -> None:
    """Return free pages to the file system, in short steps."""
    free = 2**63
    while (left := give_back(store, FREED_PAGES)) < free:
        free = left
        checkpoint(store)


def _size_bytes(store: Store) -> int:
    return (store.home / FILE_NAME).stat().st_size


def _pruned(episodes: Sequence[tuple[int, int]], used: Sequence[Path], *, kept: int, freed_bytes: int) -> Pruned:
    return Pruned(
        episodes=len(episodes), turns=sum(turns for _, turns in episodes), kept=kept, archives=tuple(used), freed_bytes=freed_bytes
    )
