"""Whether a store is whole: the file, its rows against each other, files against rows, archives.

An `error` breaks a promise of the store; a `warning` is something that was left behind, with its remedy. Nothing is changed, and a
daemon may run meanwhile. Left out: whether the texts of turns are what their tokens say, which needs a tokenizer
(`learners/weights/check_texts.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlite_utils import Database
from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]  # pysqlite3 where it is installed

from perdure.memory import leases
from perdure.memory.errors import PerdureError, RuntimeFailure
from perdure.memory.files import MAKING, check_files
from perdure.memory.json_value import to_json
from perdure.memory.leases import Clock
from perdure.memory.replay.episodes import counts
from perdure.memory.schema import MIGRATIONS
from perdure.memory.store import ARCHIVE, Store
from perdure.memory.upkeep.garbage import needed_on_disk
from perdure.memory.upkeep.prune import archived_ids, archives
from perdure.memory.versions import list_versions, moves

SHOWN = 20
"""Findings of one rule that are shown one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found."""

    level: Literal["error", "warning"]
    rule: str
    subject: str
    message: str

    def as_json(self) -> dict[str, str]:
        return {"level": self.level, "rule": self.rule, "subject": self.subject, "message": self.message}


Found = Iterator[tuple[Literal["error", "warning"], str, str]]
"""What a rule gives: level, subject, message."""


def check(store: Store, clock: Clock) -> list[Finding]:
    """All findings, errors first. Of a rule that is broken often, the first ones and how many more."""
    findings: list[Finding] = []
    for rule in RULES:
        name = rule.__name__.strip("_").replace("_", "-")
        try:
            found = list(rule(store, clock))
        except (PerdureError, sqlite3.Error) as error:  # so damaged that it cannot be asked
            found = [("error", "perdure.db", str(error))]
        findings += listed(name, found)
    return sorted(findings, key=lambda finding: finding.level)


def listed(rule: str, found: list[tuple[Literal["error", "warning"], str, str]]) -> list[Finding]:
    """What one rule found, the errors first, and not more of it than a person reads."""
    found = sorted(found, key=lambda one: one[0])
    findings = [Finding(level=level, rule=rule, subject=subject, message=message) for level, subject, message in found[:SHOWN]]
    if len(found) > SHOWN:
        level, more = found[SHOWN][0], len(found) - SHOWN
        findings.append(Finding(level=level, rule=rule, subject=f"{more} more", message="as those before"))
    return findings


def looked_at(store: Store) -> dict[str, int]:
    """How much there is to look at."""
    return {**counts(store), "versions": len(list_versions(store)), "archives": len(archives(store.home))}


def _integrity(store: Store, clock: Clock) -> Found:
    for row in store.rows(f"PRAGMA integrity_check({SHOWN})"):
        if row[0] != "ok":
            yield "error", "perdure.db", f"{row[0]}: restore a backup"


def _schema(store: Store, clock: Clock) -> Found:
    """Against a fresh one."""
    found = _objects(store.db)
    fresh = Database(memory=True)
    try:
        for sql in MIGRATIONS:
            fresh.conn.executescript(sql)
        wanted = _objects(fresh)
    finally:
        fresh.close()
    for name, sql in wanted.items():
        if name not in found:
            yield "error", name, "is missing: restore a backup"
        elif found[name] != sql:
            yield "error", name, "is not what it should be: restore a backup"
    for name in sorted(found.keys() - wanted.keys()):
        yield "warning", name, "is not part of the schema: somebody added it"


def _foreign_keys(store: Store, clock: Clock) -> Found:
    for row in store.rows("PRAGMA foreign_key_check"):
        yield "error", f"{row[0]} {row[1]}", f"names a row of {row[2]} that is not there"


def _serving_version(store: Store, clock: Clock) -> Found:
    serving = [version.name for version in list_versions(store) if version.state == "serving"]
    log = moves(store)
    if log and serving != [log[-1].to_version]:
        yield "error", ", ".join(serving) or "no version", f"serves, but the last move went to {log[-1].to_version}"


def _version_files(store: Store, clock: Clock) -> Found:
    needed = needed_on_disk(store)
    for version in list_versions(store):
        if version.path is None:
            continue
        if not (store.home / version.path).is_dir():
            if version.name in needed:
                yield "error", version.name, f"is {version.state}, and its files are not in {store.home / version.path}: restore them"
            elif version.state == "retired":
                yield "warning", version.name, "its files are gone: it cannot be gone back to"
            continue
        try:
            check_files(store.home / version.path, version.hash)
        except RuntimeFailure as error:
            yield "error" if version.state != "rejected" else "warning", version.name, str(error)


def _left_behind(store: Store, clock: Clock) -> Found:
    paths = {version.path for version in list_versions(store)}
    for entry in _entries(store.home / "versions"):
        if f"versions/{entry.name}" not in paths:
            yield "warning", f"versions/{entry.name}", "belongs to no version: unless a job runs now, `perdure version gc` removes it"
    for entry in _entries(store.home / ARCHIVE):
        if entry.name.startswith(MAKING):
            yield "warning", f"{ARCHIVE}/{entry.name}", "is not finished: unless a prune runs now, the next one removes it"


def _turn_numbers(store: Store, clock: Clock) -> Found:
    rows = store.rows(
        """
        SELECT e.id, count(t.n) AS found, coalesce(max(t.n) + 1, 0) AS ends, coalesce(min(t.n), 0) AS begins,
               CASE e.state WHEN 'running' THEN count(t.n) ELSE e.turns END AS said -- they are counted when it ends
        FROM episode e LEFT JOIN turn t ON t.episode = e.id
        GROUP BY e.id HAVING found <> said OR ends <> said OR begins <> 0
        """
    )
    for row in rows:
        yield "error", f"episode {row['id']}", f"says it has {row['said']} turns; {row['found']} are there, the last is {row['ends'] - 1}"


def _shared_tokens(store: Store, clock: Clock) -> Found:
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


def _batches(store: Store, clock: Clock) -> Found:
    rows = store.rows(
        """
        SELECT m.job, m.n, e.id, e.state, e.purpose, e.seat FROM manifest m JOIN episode e ON e.id = m.episode
        WHERE e.state <> 'completed' OR e.purpose IN ('gate', 'probe') OR e.seat > 0
        """
    )
    for row in rows:
        message = f"learned from episode {row['id']} ({row['purpose']}, {row['state']}, seat {row['seat']})"
        yield "error", f"job {row['job']} step {row['n']}", message


def _rewards(store: Store, clock: Clock) -> Found:
    rows = store.rows(
        """
        SELECT e.id, e.state, r.source, r.value FROM reward r JOIN episode e ON e.id = r.episode
        WHERE e.state <> 'completed' OR abs(r.value) = 9e999 -- SQLite has no other word for infinity
        """
    )
    for row in rows:
        yield "error", f"episode {row['id']}", f"is {row['state']}, and {row['source']} gave it a reward of {row['value']}"


def _running_episodes(store: Store, clock: Clock) -> Found:
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


def _archives(store: Store, clock: Clock) -> Found:
    for path in archives(store.home):
        try:
            ids = archived_ids(path)
        except RuntimeFailure as error:
            yield "error", f"{ARCHIVE}/{path.name}", str(error)
            continue
        sql = "SELECT count(*) AS n FROM episode WHERE id IN (SELECT value FROM json_each(?))"
        left = store.rows(sql, (to_json(ids),))[0]["n"]
        if left:
            message = f"{left} of its {len(ids)} episodes are in the store too: unless a prune runs now, the next one goes on with it"
            yield "warning", f"{ARCHIVE}/{path.name}", message


RULES: tuple[Callable[[Store, Clock], Found], ...] = (
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
)


def _objects(db: Database) -> dict[str, str]:
    """Tables, indexes and views by name, with the text that made them."""
    sql = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name <> '_sqlite_migrations' AND name NOT LIKE 'sqlite_%'"
    return dict(db.execute(sql).fetchall())


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
