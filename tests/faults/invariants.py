"""What must be so in a home after any fault, asked of the database and the files, and compared with what was acknowledged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.acknowledged import Acknowledgements, checksum

from perdure.memory.layout.blobs import pack_ids, pack_logprobs
from perdure.memory.store import Store
from perdure.memory.versions import list_versions

COMPLETED_TWICE = """
SELECT "group", member FROM episode WHERE state = 'completed' GROUP BY "group", member HAVING count(*) > 1
"""
PLAYED = """
CREATE TEMP TABLE IF NOT EXISTS archived (
    id INTEGER PRIMARY KEY, task INTEGER, state TEXT, purpose TEXT, environment TEXT, seed INTEGER, version TEXT,
    "group" TEXT, success INTEGER, total_reward REAL
) STRICT;
CREATE TEMP VIEW IF NOT EXISTS played AS
    SELECT id, task, state, purpose, environment, seed, version, "group", success, total_reward FROM episode
    UNION SELECT id, task, state, purpose, environment, seed, version, "group", success, total_reward FROM archived;
"""
IN_TWO_BATCHES = "SELECT episode FROM manifest WHERE on_policy = 1 GROUP BY episode HAVING count(*) > 1"

RULES = {
    "an episode is running under no lease": """
        SELECT id FROM episode e WHERE state = 'running'
        AND NOT EXISTS (SELECT 1 FROM task t WHERE t.id = e.task AND t.attempt = e.attempt AND t.state = 'leased')
        AND NOT EXISTS (SELECT 1 FROM job j WHERE j.id = e.job AND j.attempt = e.attempt AND j.state IN ('leased', 'running', 'gating'))
    """,
    "a task is leased by nobody, or owned without a lease": "SELECT id FROM task WHERE (state = 'leased') <> (owner IS NOT NULL)",
    "a done task lacks members": """
        SELECT id FROM task t WHERE state = 'done' AND members NOT BETWEEN
            (SELECT count(*) FROM played e WHERE e.task = t.id AND e.state = 'completed')
            AND (SELECT count(*) FROM played e WHERE e.task = t.id AND e.state IN ('completed', 'env_error'))
    """,
    "the turns of an episode have gaps": """
        SELECT e.id FROM episode e LEFT JOIN turn t ON t.episode = e.id WHERE e.id NOT IN (SELECT episode FROM shelved)
        GROUP BY e.id HAVING (e.state <> 'running' AND count(t.n) <> e.turns) OR coalesce(max(t.n) + 1, 0) <> count(t.n)
    """,
    "a turn is in the database and in a shard": "SELECT episode FROM turn WHERE episode IN (SELECT episode FROM shelved)",
    "a shard does not have the turns that it should": """
        SELECT s.id FROM shard s WHERE s.state = 'whole' AND s.turns - s.pruned_turns <> (
            SELECT coalesce(sum(e.turns), 0) FROM shelved h JOIN episode e ON e.id = h.episode WHERE h.shard = s.id)
    """,
    "a success rate is not what the episodes come to": """
        WITH counted AS (
            SELECT version, environment, sum(episodes), sum(successes), count(*), sum(low < high) FROM (
                SELECT version, environment, count(*) AS episodes, sum(success) AS successes, min(total_reward) AS low,
                       max(total_reward) AS high
                FROM played WHERE purpose = 'live' AND state = 'completed' GROUP BY version, environment, "group")
            GROUP BY version, environment),
        kept AS (SELECT version, environment, episodes, successes, groups, mixed_groups FROM rate)
        SELECT * FROM (SELECT * FROM counted EXCEPT SELECT * FROM kept)
        UNION ALL SELECT * FROM (SELECT * FROM kept EXCEPT SELECT * FROM counted)
    """,
    "an episode that was not completed is scored": """
        SELECT id FROM episode WHERE state <> 'completed' AND (success OR score <> 0)
    """,
    "an episode was learned from that was not completed, or was played to judge": """
        SELECT m.episode FROM manifest m JOIN episode e ON e.id = m.episode WHERE e.state <> 'completed' OR e.purpose IN ('gate', 'probe')
    """,
    "a pair was scored without its completed episodes": """
        SELECT p.gate, p.environment, p.draw FROM pair p JOIN gate g ON g.id = p.gate
        WHERE (p.reference_score IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM played e WHERE e.purpose = 'gate' AND e.state = 'completed'
            AND e.environment = p.environment AND e.seed = p.seed AND e.version = p.reference))
        OR (p.candidate_score IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM played e WHERE e.purpose = 'gate' AND e.state = 'completed'
            AND e.environment = p.environment AND e.seed = p.seed AND e.version = g.candidate))
    """,
    "not exactly one version serves": "SELECT n FROM (SELECT count(*) AS n FROM version WHERE state = 'serving') WHERE n <> 1",
    "the last move leads to another version than the one that serves": """
        SELECT to_version FROM move WHERE id = (SELECT max(id) FROM move)
        AND to_version NOT IN (SELECT name FROM version WHERE state = 'serving')
    """,
    "a version was promoted by a gate without its verdict": """
        SELECT m.id FROM move m JOIN gate g ON g.id = m.gate WHERE g.verdict IS NOT 'promote' OR g.candidate <> m.to_version
    """,
    "a verdict let a version serve that was not moved to": """
        SELECT g.id FROM gate g JOIN job j ON j.id = g.job WHERE j.kind = 'learn' AND g.verdict = 'promote'
        AND NOT EXISTS (SELECT 1 FROM move m WHERE m.gate = g.id)
    """,
    "a verdict refused a version that is not rejected": """
        SELECT g.id FROM gate g JOIN job j ON j.id = g.job JOIN version v ON v.name = g.candidate
        WHERE j.kind = 'learn' AND g.verdict = 'reject' AND v.state <> 'rejected'
    """,
    "a learning job with a verdict is not done": """
        SELECT j.id FROM job j JOIN gate g ON g.job = j.id AND g.verdict IS NOT NULL WHERE j.kind = 'learn' AND j.state <> 'done'
    """,
    "a learning job that is done lacks an update, or has one twice": """
        SELECT job, last, steps FROM (
            SELECT s.job, max(s.n) AS last, count(*) AS steps, count(DISTINCT s.n) AS different FROM step s JOIN job j ON j.id = s.job
            WHERE j.state = 'done' AND NOT EXISTS (
                SELECT 1 FROM step later WHERE later.job = s.job AND later.attempt > s.attempt AND later.n <= s.n)
            GROUP BY s.job) WHERE last <> steps OR steps <> different
    """,
    "a row names another that is not there": "SELECT * FROM pragma_foreign_key_check",
    "the file is damaged": "SELECT integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'",
}
"""Each asks for the rows that break it. `played` are the episodes of the store and of its archives."""

AT_REST = {
    "something is running in a home at rest": "SELECT id FROM episode WHERE state = 'running'",
    "a task is leased in a home at rest": "SELECT id FROM task WHERE state = 'leased'",
    "the device is held in a home at rest": "SELECT owner FROM device WHERE owner IS NOT NULL AND lease_until >= 0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What is not as it must be."""

    lost: int = 0
    """Acknowledged turns that are not there, or with other tokens."""
    twice: int = 0
    doubled: int = 0
    broken: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        return bool(self.lost or self.twice or self.doubled or self.broken)


@dataclass(slots=True)
class Witness:
    """What was known of a home before: acknowledgements, and what each version's name stood for."""

    acknowledged: Acknowledgements
    hashes: dict[str, str] = field(default_factory=dict)
    archives: dict[Path, list[dict[str, Any]]] = field(default_factory=dict)
    """Episodes that were pruned, by file."""

    def examine(self, store: Store, *, at_rest: bool = False) -> Findings:
        """Look at everything, at one moment of a store that may be written to meanwhile."""
        self.acknowledged.read()  # first, so that what is compared was acknowledged before
        self._read_archives(store)
        with _snapshot(store):
            lost, forgotten = self._lost(store)
            broken = [*forgotten, *self._versions(store)]
            for what, sql in (RULES | AT_REST if at_rest else RULES).items():
                rows = store.rows(sql)
                if rows:
                    broken.append(f"{what}: {len(rows)}, such as {tuple(rows[0])}")
            return Findings(
                lost=lost, twice=len(store.rows(COMPLETED_TWICE)), doubled=len(store.rows(IN_TWO_BATCHES)), broken=tuple(broken)
            )

    def _lost(self, store: Store) -> tuple[int, list[str]]:
        kept = {
            (row["episode"], row["n"]): checksum(row["action_ids"], row["logprobs"])
            for row in store.rows("SELECT episode, n, action_ids, logprobs FROM turn")
        }
        for row in _in_shards(store):
            kept[row["episode"], row["n"]] = checksum(pack_ids(row["action_ids"]), pack_logprobs(row["logprobs"]))
        states = {row["id"]: row["state"] for row in store.rows("SELECT id, state FROM episode")}
        for episode in (episode for file in self.archives.values() for episode in file):
            states[episode["id"]] = episode["state"]
            for turn in episode["turns"]:
                kept[episode["id"], turn["n"]] = checksum(pack_ids(turn["action_ids"]), pack_logprobs(turn["logprobs"]))
        lost = sum(kept.get(turn) != said for turn, said in self.acknowledged.turns.items())
        changed = [episode for episode, said in self.acknowledged.endings.items() if states.get(episode) != said]
        return lost, [f"the end of episode {changed[0]} and {len(changed) - 1} more is not what was acknowledged"] if changed else []

    def _read_archives(self, store: Store) -> None:
        """Take up what was pruned since the last look."""
        store.db.executescript(PLAYED)
        for path in sorted((store.home / "archive").glob("*.parquet")):
            if path not in self.archives:
                import pyarrow.parquet as pq

                self.archives[path] = pq.read_table(path).to_pylist()
        columns = ("id", "task", "state", "purpose", "environment", "seed", "sampler", "group", "success", "total_reward")
        rows = [tuple(episode[column] for column in columns) for file in self.archives.values() for episode in file]
        store.conn.executemany(f"INSERT OR REPLACE INTO archived VALUES ({', '.join('?' * len(columns))})", rows)

    def _versions(self, store: Store) -> Iterator[str]:
        for version in list_versions(store):
            if self.hashes.setdefault(version.name, version.hash) != version.hash:
                yield f"the name {version.name} was used for two versions"
            if version.path is not None and not _verifies(store.home / version.path, version.hash):
                yield f"the files of {version.name} are not what its row says"


def _in_shards(store: Store) -> Iterator[dict[str, Any]]:
    """The turns of the shards that the index says are whole."""
    import pyarrow.parquet as pq

    for row in store.rows("SELECT place FROM shard WHERE state = 'whole'"):
        if (store.home / row["place"]).is_file():  # otherwise its turns are lost
            yield from pq.read_table(store.home / row["place"], columns=["episode", "n", "action_ids", "logprobs"]).to_pylist()


@contextmanager
def _snapshot(store: Store) -> Iterator[None]:
    store.conn.execute("BEGIN")
    try:
        yield
    finally:
        store.conn.execute("ROLLBACK")


def _verifies(folder: Path, digest: str) -> bool:
    """Whether the adapter is byte for byte what its manifest says, and the manifest what the row says."""
    try:
        text = (folder / "manifest.json").read_bytes()
        files = json.loads(text)["files"]
        return hashlib.sha256(text).hexdigest() == digest and all(
            hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"] for name, entry in files.items()
        )
    except OSError:
        return False
