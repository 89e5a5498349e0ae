"""The check of a store: the file, rows against each other, files against rows, archives, shards.

An `error` breaks a promise of the store; a `warning` is a leftover, with its remedy. Nothing is changed, and a daemon may run meanwhile.
Left out: whether the texts of turns match their tokens, which needs a tokenizer (`learners/weights/check_texts.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Literal

from perdure.memory import leases
from perdure.memory.errors import PerdureError, RuntimeFailure, ShardLost
from perdure.memory.files import MAKING, check_files
from perdure.memory.history.checked_shards import require_whole
from perdure.memory.history.shard_index import shards, unfinished
from perdure.memory.json_value import Document, record_json, to_json
from perdure.memory.layout.digests import register_digests
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.leases import Clock
from perdure.memory.schema import MIGRATIONS
from perdure.memory.store import ARCHIVE, HISTORY, Store, open_store
from perdure.memory.trajectories.episodes import counts
from perdure.memory.upkeep.check_digests import Progress, Visit, changed_rows
from perdure.memory.upkeep.check_errands import errands
from perdure.memory.upkeep.garbage import needed_versions
from perdure.memory.upkeep.prune import archived_ids, archives, changed_in_archive
from perdure.memory.versions import list_versions, moves

DIGESTS_RULE = "digests"
SHOWN = 20
"""At most this many findings of one rule are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFinding:
    """One breach of a rule."""

    level: Literal["error", "warning"]
    rule: str
    subject: str
    message: str

    def as_json(self) -> Document:
        """The listing's keys."""
        return record_json(self)


Breach = tuple[Literal["error", "warning"], str, str]
"""Level, subject and message."""

Rule = Callable[[Store, Clock], Iterator[Breach]]


def check(
    store: Store,
    clock: Clock,
    progress: Progress = lambda done, total: None,
    visit: Visit | None = None,
    *,
    on_two_cores: bool = False,
) -> list[StoreFinding]:
    """All findings, errors first; of each rule at most `SHOWN`, and how many more. `visit` is given every answer on the way.

    `on_two_cores`: while this thread compares digests, another one applies the other rules, through a connection of its own. It does not
    see what the transaction that `store` may be in has written.
    """

    def digests(store: Store, clock: Clock) -> Iterator[Breach]:
        for row, message in changed_rows(store, progress, visit):
            yield "error", row, message

    if on_two_cores:
        with _meanwhile(store, clock) as others:
            compared = _findings(DIGESTS_RULE, digests, store, clock)
            findings = [*others.result(), *compared]
    else:
        findings = [*_of_rules(store, clock), *_findings(DIGESTS_RULE, digests, store, clock)]
    return sorted(findings, key=lambda finding: finding.level)


@contextmanager
def _meanwhile(store: Store, clock: Clock) -> Iterator[Future[list[StoreFinding]]]:
    """The findings of all rules but that of digests, made in another thread, which stops if the block fails."""
    own: list[Store] = []
    stopped = Event()

    def apply() -> list[StoreFinding]:
        with open_store(store.home, reading=True) as opened:
            own.append(opened)
            return _of_rules(opened, clock, stopped)

    with ThreadPoolExecutor(1, "check") as thread:
        future = thread.submit(apply)
        try:
            yield future
        except BaseException:
            stopped.set()
            for opened in own:
                with suppress(sqlite3.Error):  # it is closed already
                    opened.conn.interrupt()
            raise


def _of_rules(store: Store, clock: Clock, stopped: Event | None = None) -> list[StoreFinding]:
    findings: list[StoreFinding] = []
    for rule in RULES:
        if stopped is None or not stopped.is_set():
            findings += _findings(rule.__name__.strip("_").replace("_", "-"), rule, store, clock)
    return findings


def _findings(name: str, rule: Rule, store: Store, clock: Clock) -> list[StoreFinding]:
    try:
        breaches = list(rule(store, clock))
    except (PerdureError, sqlite3.Error, ValueError, LookupError, TypeError, AttributeError) as error:  # too damaged to be read
        breaches = [("error", "perdure.db", str(error))]
    return listed(name, breaches)


def listed(rule: str, breaches: Sequence[Breach]) -> list[StoreFinding]:
    """The breaches of one rule as findings, errors first, at most `SHOWN`."""
    ordered = sorted(breaches, key=lambda breach: breach[0])
    findings = [StoreFinding(level=level, rule=rule, subject=subject, message=message) for level, subject, message in ordered[:SHOWN]]
    if len(ordered) > SHOWN:
        level, more = ordered[SHOWN][0], len(ordered) - SHOWN
        findings.append(StoreFinding(level=level, rule=rule, subject=f"{more} more", message="as those before"))
    return findings


def checked_counts(store: Store) -> dict[str, int]:
    """How many episodes, turns, versions, archives and shards are checked."""
    return {
        **counts(store),
        "versions": len(list_versions(store)),
        "archives": len(archives(store.home)),
        "shards": len(shards(store)),
    }


def _integrity(store: Store, clock: Clock) -> Iterator[Breach]:
    for row in store.rows(f"PRAGMA integrity_check({SHOWN})"):
        if row[0] != "ok":
            yield "error", "perdure.db", f"{row[0]}: restore a backup"


def _schema(store: Store, clock: Clock) -> Iterator[Breach]:
    """The schema against that of a new store."""
    existing = _objects(store.conn)
    fresh = sqlite3.connect(":memory:")
    try:
        register_digests(fresh)
        for sql in MIGRATIONS:
            fresh.executescript(sql)
        expected = _objects(fresh)
    finally:
        fresh.close()
    for name, sql in expected.items():
        if name not in existing:
            yield "error", name, "is missing: restore a backup"
        elif existing[name] != sql:
            yield "error", name, "differs from the schema: restore a backup"
    for name in sorted(existing.keys() - expected.keys()):
        yield "warning", name, "is not part of the schema: it was added by hand or by another program"


def _foreign_keys(store: Store, clock: Clock) -> Iterator[Breach]:
    for row in store.rows("PRAGMA foreign_key_check"):
        yield "error", f"{row[0]} {row[1]}", f"names a missing row of {row[2]}"


def _serving_version(store: Store, clock: Clock) -> Iterator[Breach]:
    serving = [version.name for version in list_versions(store) if version.state == "serving"]
    log = moves(store)
    if log and serving != [log[-1].to_version]:
        yield "error", ", ".join(serving) or "no version", f"serves, but the last move went to {log[-1].to_version}"


def _version_files(store: Store, clock: Clock) -> Iterator[Breach]:
    needed = needed_versions(store)
    for version in list_versions(store):
        if version.path is None:
            continue
        if not (store.home / version.path).is_dir():
            if version.name in needed:
                yield "error", version.name, f"is {version.state}, and its files are not in {store.home / version.path}: restore them"
            elif version.state == "retired":
                yield "warning", version.name, "its files are missing: no rollback to it is possible"
            continue
        try:
            check_files(store.home / version.path, version.hash)
        except RuntimeFailure as error:
            yield "error" if version.state != "rejected" else "warning", version.name, str(error)


def _left_behind(store: Store, clock: Clock) -> Iterator[Breach]:
    paths = {version.path for version in list_versions(store)}
    for entry in _entries(store.home / "versions"):
        if f"versions/{entry.name}" not in paths:
            yield "warning", f"versions/{entry.name}", "belongs to no version: unless a job is running, `perdure version gc` removes it"
    for entry in _entries(store.home / ARCHIVE):
        if entry.name.startswith(MAKING):
            yield "warning", f"{ARCHIVE}/{entry.name}", "is unfinished: unless a prune is running, the next one removes it"
    for entry in _entries(store.home / HISTORY):
        if entry.name.startswith(MAKING):
            yield "warning", f"{HISTORY}/{entry.name}", "is unfinished: unless an archive is being made, the next one removes it"


def _turn_numbers(store: Store, clock: Clock) -> Iterator[Breach]:
    rows = store.rows(
        """
        SELECT e.id, count(t.n) AS found, coalesce(max(t.n) + 1, 0) AS ends, coalesce(min(t.n), 0) AS begins,
               CASE WHEN s.episode IS NOT NULL THEN 0 WHEN e.state = 'running' THEN count(t.n) -- they are counted when it ends
                    ELSE e.turns END AS expected
        FROM episode e LEFT JOIN turn t ON t.episode = e.id LEFT JOIN shelved s ON s.episode = e.id
        GROUP BY e.id HAVING found <> expected OR ends <> expected OR begins <> 0
        """
    )
    for row in rows:
        message = f"should have {row['expected']} turns in the database; it has {row['found']}, the last is {row['ends'] - 1}"
        yield "error", f"episode {row['id']}", message


def _shared_tokens(store: Store, clock: Clock) -> Iterator[Breach]:
    rows = store.rows(
        """
        SELECT episode, n, shared, before FROM (
            SELECT episode, n, shared, length(prompt_ids) % 4 + length(action_ids) % 4 AS torn,
                   coalesce(lag(shared + length(prompt_ids) / 4 + length(action_ids) / 4) OVER turns, 0) AS before
            FROM turn WINDOW turns AS (PARTITION BY episode ORDER BY n)
        ) WHERE torn <> 0 OR shared < 0 OR shared > before
        """
    )
    for row in rows:
        message = f"shares {row['shared']} tokens with the turn before, which has {row['before']}, or ends within a token"
        yield "error", f"episode {row['episode']} turn {row['n']}", message


def _batches(store: Store, clock: Clock) -> Iterator[Breach]:
    rows = store.rows(
        """
        SELECT m.job, m.n, e.id, e.state, e.purpose, e.seat FROM manifest m JOIN episode e ON e.id = m.episode
        WHERE e.state <> 'completed' OR e.purpose IN ('gate', 'probe') OR e.seat > 0
        """
    )
    for row in rows:
        message = f"learned from episode {row['id']} ({row['purpose']}, {row['state']}, seat {row['seat']})"
        yield "error", f"job {row['job']} step {row['n']}", message


def _rewards(store: Store, clock: Clock) -> Iterator[Breach]:
    rows = store.rows(
        """
        SELECT e.id, e.state, r.source, r.value FROM reward r JOIN episode e ON e.id = r.episode
        WHERE e.state <> 'completed' OR abs(r.value) = 9e999 -- infinity
        """
    )
    for row in rows:
        yield "error", f"episode {row['id']}", f"is {row['state']}, and {row['source']} gave it a reward of {row['value']}"


def _running_episodes(store: Store, clock: Clock) -> Iterator[Breach]:
    condition, parameters = leases.lapsed(clock)
    rows = store.rows(
        f"""
        SELECT id FROM episode e WHERE state = 'running'
        AND NOT EXISTS (SELECT 1 FROM task t WHERE t.id = e.task AND t.attempt = e.attempt AND {leases.HELD["task"]} AND NOT {condition})
        AND NOT EXISTS (SELECT 1 FROM job j WHERE j.id = e.job AND j.attempt = e.attempt AND {leases.HELD["job"]} AND NOT {condition})
        """,
        (*parameters, *parameters),
    )
    for row in rows:
        yield "warning", f"episode {row['id']}", "is running under a lease that has ended: the next `perdure run` aborts it"


def _archives(store: Store, clock: Clock) -> Iterator[Breach]:
    for path in archives(store.home):
        try:
            ids = archived_ids(path)
            for part in changed_in_archive(path):
                yield "error", f"{ARCHIVE}/{path.name}", f"{part} differs from its digest: restore the file from a copy"
        except RuntimeFailure as error:
            yield "error", f"{ARCHIVE}/{path.name}", str(error)
            continue
        sql = "SELECT count(*) AS n FROM episode WHERE id IN (SELECT value FROM json_each(?))"
        left = store.rows(sql, (to_json(ids),))[0]["n"]
        if left:
            message = f"{left} of its {len(ids)} episodes are still in the store: unless a prune is running, the next one removes them"
            yield "warning", f"{ARCHIVE}/{path.name}", message


def _history(store: Store, clock: Clock) -> Iterator[Breach]:
    """Shards against their digests, the index against itself, and what no row names."""
    counted = {row["shard"]: row["n"] for row in store.rows("SELECT shard, count(*) AS n FROM shelved GROUP BY shard")}
    known = set(unfinished(store).values())
    for place in sorted(known):
        yield "warning", place, "was begun and not finished: unless `perdure store archive` is running, the next one removes it"
    for shard in shards(store):
        known.add(shard.place)
        left = shard.episodes - shard.pruned_episodes
        if counted.get(shard.id, 0) != left:
            yield "error", shard.place, f"should hold {left} episodes of the store, and {counted.get(shard.id, 0)} are said to be in it"
        if not left:
            yield "warning", shard.place, "holds nothing that is still in the store: the next `perdure store prune` removes it"
            continue
        try:
            require_whole(store, shard, anew=True)
        except ShardLost as error:
            yield "error", shard.place, str(error)
    for entry in _entries(store.home / HISTORY):
        if f"{HISTORY}/{entry.name}" not in known and not entry.name.startswith(MAKING):
            yield "warning", f"{HISTORY}/{entry.name}", "belongs to no row, as after an older backup was restored: nothing reads it"


RULES: tuple[Rule, ...] = (
    _integrity,
    _schema,
    _foreign_keys,
    _serving_version,
    _version_files,
    _left_behind,
    _turn_numbers,
    _shared_tokens,
    _batches,
    _rewards,
    _running_episodes,
    _archives,
    _history,
    errands,
)


def _objects(conn: sqlite3.Connection) -> dict[str, str]:
    """Tables, indexes, views and triggers by name, with their kind and the text that made them."""
    sql = """
        SELECT name, type || ' ' || sql FROM sqlite_master
        WHERE sql IS NOT NULL AND tbl_name <> '_sqlite_migrations' AND name NOT LIKE 'sqlite_%'
    """
    return dict(conn.execute(sql).fetchall())


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
