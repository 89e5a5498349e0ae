"""Every row against its digest (`memory/layout/digests.py`): which rows hold a value that was changed behind the store's back.

Episodes and turns are read in portions, so that the write-ahead log is never held for long, each portion of one moment. Turns in shards
are not read here: the digest of the file covers them (`memory/history/checked_shards.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from perdure.memory.layout.digests import ALSO, TURN, digest_of, end_of_old, raw_texts, turn_digest
from perdure.memory.store import Store

AT_ONCE = 256
"""Episodes of one portion."""

Progress = Callable[[int, int], None]
"""Is told how many episodes have been read, and how many there are."""

Visit = Callable[[int, int, bytes, bytes], None]
"""Is given each answer: episode, number of the turn, packed token ids, UTF-8 of the text."""

Changed = tuple[str, str]
"""Which row, and what is wrong with it."""

_DIFFERS = "differs from its digest: a value of it was changed on the disk, or by another program"


def changed_rows(store: Store, progress: Progress, visit: Visit | None = None) -> Iterator[Changed]:
    """All rows that differ from their digest. `visit` is given every answer meanwhile, so that turns are read once."""
    yield from changed_episodes(store, progress, visit)
    for (table,) in store.rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid"):
        if table not in ("turn", "episode"):
            yield from changed_rows_of(store, table)


def changed_episodes(store: Store, progress: Progress, visit: Visit | None) -> Iterator[Changed]:
    """The episodes and turns that differ."""
    columns = ", ".join(f'"{name}"' for name in _columns(store, "episode") if name != "digest")
    ((total,),) = store.rows("SELECT count(*) FROM episode")
    done, first = 0, -(2**63)
    while True:
        ends: dict[int, int | None] = {}
        found: list[Changed] = []
        with store.read() as conn, raw_texts(conn):
            episodes = conn.execute(
                f"SELECT id, state, digest, {columns} FROM episode WHERE id >= ? ORDER BY id LIMIT ?", (first, AT_ONCE)
            ).fetchall()
            if not episodes:
                return
            between = (episodes[0][0], episodes[-1][0])
            ends |= conn.execute("SELECT episode, chain FROM shelved WHERE episode BETWEEN ? AND ?", between).fetchall()
            episode: Any = None
            last: int | None = None
            old = False  # whether its turns are from before there were digests
            for turn in conn.execute(f"SELECT {TURN}, digest FROM turn WHERE episode BETWEEN ? AND ? ORDER BY episode, n", between):
                digest = turn[-1]
                if turn[0] != episode:
                    episode, last, old = turn[0], None, digest is None
                computed = turn_digest(turn[:-1], last)
                if digest != (None if old else computed):
                    found.append((f"episode {episode} turn {turn[1]}", _DIFFERS))
                last = computed if digest is None else digest
                ends[episode] = end_of_old(last) if old else last
                if visit is not None:
                    visit(episode, turn[1], turn[4], turn[7])
        yield from found
        for id_, state, digest, *values in episodes:
            if digest != digest_of((*values, None if state == b"running" else ends.get(id_))):
                yield f"episode {id_}", f"{_DIFFERS}; or one of its turns was" if id_ in ends else _DIFFERS
        done, first = done + len(episodes), episodes[-1][0] + 1
        progress(done, total)


def changed_rows_of(store: Store, table: str) -> Iterator[Changed]:
    """The rows of one of the other tables that differ; none of a table without digests, which another program has made."""
    columns = _columns(store, table)
    if "digest" not in columns:
        return
    names = [name for name in columns if name != "digest"]
    keys = sorted((name for name in names if columns[name]), key=lambda name: columns[name])
    covered = ", ".join(f'"{name}"' for name in names) + (f", {ALSO[table]}" if table in ALSO else "")
    found: list[Changed] = []
    with store.read() as conn, raw_texts(conn):
        for digest, *values in conn.execute(f'SELECT digest, {covered} FROM "{table}"'):
            if digest != digest_of(values):
                row: Any = dict(zip(names, values, strict=False))
                found.append((f"{table} {' '.join(_shown(row[key]) for key in keys)}", _DIFFERS))
    yield from found


def _shown(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _columns(store: Store, table: str) -> dict[str, int]:
    """The columns of a table in its order, each with its place in the key, from 1; 0 if it is not in it."""
    return {row["name"]: row["pk"] for row in store.rows(f'PRAGMA table_info("{table}")')}
