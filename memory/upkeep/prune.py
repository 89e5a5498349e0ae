"""Pruning: old episodes go to Parquet files under `archive/` in the home, and then out of the store.

**What stays**, whatever is asked for: episodes that are being played; those of a task or job that has not come to its end; the newest live
ones of the version that serves, by which the daemon chooses what to learn and counts when; and the newest of all, because SQLite would give
its number to another episode. A group stays whole as long as one of its members stays. Gates and their pairs hold scores, not episodes, and
stay; tasks stay too, since the stream counts them. The batches that an episode was learned from, and the rewards that it was given
afterwards, go into the archive with it. Since its number is never given again, it still can be in no second on-policy batch.

**Nothing is lost.** Episodes go in portions, so that a nearly full disk suffices. A portion is written to a file of its own, synced, named,
read back and compared with the store; only what compares equal is deleted, in short transactions. An episode that is judged meanwhile
stays, even where the rest of its group goes. After a death in between, the next run finds what is archived already, compares it, and
deletes it without archiving it again.

Only the holder of the home's lock prunes: it moves pages of the log into the database, which one process may do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.memory import faults
from perdure.memory.errors import RuntimeFailure
from perdure.memory.exchange.documents import document_schema, portions, read_documents
from perdure.memory.exchange.export import document_writer
from perdure.memory.files import MAKING, making
from perdure.memory.json_value import to_json
from perdure.memory.processes import record_event
from perdure.memory.replay.episodes import counts
from perdure.memory.store import ARCHIVE, FILE_NAME, Store, checkpoint, give_back

KEEP_DAYS = 30.0
KEEP_LIVE = 10_000
"""Live episodes of the serving version that stay in any case."""

FILE_TURNS = 50_000
"""Turns of one archive: a hundred MB or so of the store."""

DELETED_TURNS = 2_000
"""Turns that one transaction deletes: a fraction of a second in which others wait."""

FREED_PAGES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What a person wants to keep beside what is needed; exactly one of the first two is given."""

    since: float | None = None
    """Episodes that began at or after this time (Unix seconds)."""
    episodes: int | None = None
    """So many, the newest."""
    live: int = KEEP_LIVE
    """The newest live episodes of the serving version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was pruned, or would be."""

    episodes: int
    turns: int
    kept: int
    """Episodes that stay in the store."""
    archives: tuple[Path, ...]
    """The files that they are in now."""
    freed_bytes: int

    def as_json(self) -> dict[str, Any]:
        """What the command prints."""
        return {
            "episodes": self.episodes,
            "turns": self.turns,
            "kept": self.kept,
            "archives": [str(path) for path in self.archives],
            "freed_bytes": self.freed_bytes,
        }


def plan(store: Store, keep: Keep) -> Pruned:
    """What `prune` would do, with about what it would free. Nothing is changed."""
    wanted = _prunable(store, keep)
    (size,) = store.rows(
        """
        SELECT coalesce(sum(length(prompt_ids) + 2 * length(action_ids) + length(observation) + length(action)), 0) FROM turn
        WHERE episode IN (SELECT value FROM json_each(?))
        """,
        (to_json([episode for episode, _ in wanted]),),
    )
    return _pruned(wanted, [], kept=counts(store)["episodes"] - len(wanted), freed_bytes=size[0])


def prune(
    store: Store, keep: Keep, say: Callable[[str], None], *, file_turns: int = FILE_TURNS, deleted_turns: int = DELETED_TURNS
) -> Pruned:
    """Archive and delete what need not stay; `say` gets a line for each archive. For the holder of the home's lock.

    Raises `RuntimeFailure` where an archive cannot be written or reads back otherwise: then nothing of that portion was deleted.
    """
    before = _size_bytes(store)
    wanted = _prunable(store, keep)
    left = dict(wanted)
    judged = _judged(store, left)
    gone: list[tuple[int, int]] = []
    used: list[Path] = []
    for path in archives(store.home):  # an earlier run may have died before it deleted what it had archived
        try:
            again = _archived(store, path, left.keys())
        except RuntimeFailure as error:
            say(f"{error}; what it should hold is archived again where the store has it still")
            continue
        if again:
            say(f"{len(again)} episodes are in {path.name} since an earlier run")
            gone += _delete(store, [(episode, left.pop(episode)) for episode in again], judged, deleted_turns)
            used.append(path)
    for portion in portions(left.items(), file_turns):
        path = _archive(store, [(episode, left[episode]) for episode in portion])
        if _archived(store, path, set(portion)) != portion:
            raise RuntimeFailure(f"{path} does not read back as the store has it: nothing of it was deleted; check the disk")
        say(f"{len(portion)} episodes are in {path.name}")
        gone += _delete(store, [(episode, left[episode]) for episode in portion], judged, deleted_turns)
        used.append(path)
    _give_back(store)
    if used:
        record_event(store, "prune", "store", f"{len(gone)} episodes went to {ARCHIVE}/, into {len(used)} files")
    return _pruned(gone, used, kept=counts(store)["episodes"], freed_bytes=max(before - _size_bytes(store), 0))


def archives(home: Path) -> list[Path]:
    """The archives of a home, by their first episodes."""
    return sorted((home / ARCHIVE).glob("episodes-*.parquet"))


def archived_ids(path: Path) -> list[int]:
    """The episodes of an archive. Raises `RuntimeFailure` where the file is damaged."""
    with _opened(path) as file:
        return list(file.read(columns=["id"])["id"].to_pylist())


def _prunable(store: Store, keep: Keep) -> list[tuple[int, int]]:
    """The episodes that may go, the oldest first, each with its number of turns. What stays stands in the docstring of this file."""
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
    """Write an archive, named by its first and last episode, so that those which people moved elsewhere never meet one of the same name."""
    folder = store.home / ARCHIVE
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for left in folder.glob(f"{MAKING}*"):  # whoever wrote it is gone: the lock is ours
            left.unlink()
    except OSError as error:
        raise RuntimeFailure(f"cannot write to {folder}: {error.strerror}; nothing was pruned") from error
    name = f"episodes-{episodes[0][0]:09d}-{episodes[-1][0]:09d}"
    path = folder / f"{name}.parquet"
    again = 2
    while path.exists():  # damaged, or of what came after a backup that was restored
        path = folder / f"{name}-{again}.parquet"
        again += 1
    with making(path, replace=False) as made, document_writer(made, "parquet") as write:
        for ids in portions(episodes):
            write(read_documents(store, ids))
    return path


def _archived(store: Store, path: Path, wanted: Set[int]) -> list[int]:
    """Those of the wanted episodes that an archive holds exactly as the store does, by id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: list[int] = []
    with _opened(path) as file:
        for group in range(file.num_row_groups):
            ours = sorted(wanted & set(file.read_row_group(group, columns=["id"])["id"].to_pylist()))
            if ours:
                table = file.read_row_group(group).cast(document_schema())
                table, mine = table.filter(pc.is_in(table["id"], pa.array(ours))), read_documents(store, ours)
                if table.equals(mine):
                    found += ours
                else:
                    found += [episode for n, episode in enumerate(ours) if table.slice(n, 1).equals(mine.slice(n, 1))]
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, ValueError, KeyError) as error:  # what Arrow raises is one of these
        raise RuntimeFailure(f"{path} is damaged or no archive: {str(error).partition(chr(10))[0]}") from error


def _judged(store: Store, episodes: Iterable[int]) -> dict[int, list[tuple[str, float, float]]]:
    """The rewards that people and programs gave these episodes, of those that have any: source, value, and when."""
    rows = store.rows(
        "SELECT episode, source, value, made_at FROM reward WHERE episode IN (SELECT value FROM json_each(?)) ORDER BY episode, source",
        (to_json(list(episodes)),),
    )
    found: dict[int, list[tuple[str, float, float]]] = {}
    for row in rows:
        found.setdefault(row["episode"], []).append((row["source"], row["value"], row["made_at"]))
    return found


def _delete(store: Store, episodes: Sequence[tuple[int, int]], judged: Mapping[int, object], at_once: int) -> list[tuple[int, int]]:
    """Delete episodes, each given with its number of turns, with their turns, rewards, and places in batches; gives those that are gone.

    Whatever has been judged anew since `judged` was read stays: its archive does not have that.
    """
    gone: list[tuple[int, int]] = []
    turns = dict(episodes)
    for portion in portions(episodes, at_once):
        faults.point("mid-prune")
        with store.write() as conn:
            now = _judged(store, portion)
            ids = [episode for episode in portion if now.get(episode) == judged.get(episode)]
            given = (to_json(ids),)
            conn.execute("DELETE FROM manifest WHERE episode IN (SELECT value FROM json_each(?))", given)
            conn.execute("DELETE FROM reward WHERE episode IN (SELECT value FROM json_each(?))", given)
            conn.execute("DELETE FROM turn WHERE episode IN (SELECT value FROM json_each(?))", given)
            conn.execute("DELETE FROM episode WHERE id IN (SELECT value FROM json_each(?))", given)
        gone += [(episode, turns[episode]) for episode in ids]
        checkpoint(store)
    return gone


def _give_back(store: Store) -> None:
    """Give free pages back to the file system, in short steps."""
    free = 2**63
    while (left := give_back(store, FREED_PAGES)) < free:
        free = left
        checkpoint(store)


def _size_bytes(store: Store) -> int:
    return (store.home / FILE_NAME).stat().st_size


def _pruned(wanted: Sequence[tuple[int, int]], used: Sequence[Path], *, kept: int, freed_bytes: int) -> Pruned:
    return Pruned(episodes=len(wanted), turns=sum(turns for _, turns in wanted), kept=kept, archives=tuple(used), freed_bytes=freed_bytes)
