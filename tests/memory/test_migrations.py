"""Migrations: a store of every schema that there ever was becomes one of today, with all that is in it.

The fixtures are SQL text, made by the code of their time (`tests/memory/everything.py`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlite_utils.utils import sqlite3
from tests.memory.everything import CLOCK, fill

from perdure.memory import environments, gates, jobs, processes, tasks, versions
from perdure.memory.errors import RuntimeFailure
from perdure.memory.records import StepRef, VersionRef
from perdure.memory.replay import manifests
from perdure.memory.replay.episodes import counts, get_episode, list_episodes, success_rates
from perdure.memory.replay.rewards import rewards_of
from perdure.memory.schema import MIGRATIONS, PAGE_SIZE_BYTES
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.upkeep.integrity import check

FIXTURES = Path(__file__).parent / "fixtures"
FIRST = FIXTURES / "schema-1-first.sql"
"""Schema 1 as it was on the first days: migration 1 had no table `precision` yet, and other indexes."""
REWARDS = 6
"""The schema that brought the table of rewards."""
KEPT = sorted(FIXTURES.glob("schema-*.sql"))


def number(fixture: Path) -> int:
    return int(fixture.stem.split("-")[1])


def of_schema(home: Path, fixture: Path) -> None:
    """Make the home that a fixture tells of."""
    home.mkdir()
    conn = sqlite3.connect(str(home / "perdure.db"), isolation_level=None)
    conn.executescript(fixture.read_text())
    conn.close()


def contents(store: Store) -> dict[str, object]:
    """What the public functions say of a store, without the times, which differ from store to store."""
    listed = list_episodes(store, limit=100)
    episodes = [get_episode(store, row.id) for row in listed]
    found = [gate for version in versions.list_versions(store) for gate in gates.gates_of(store, version.name)]
    return {
        "environments": [
            (row.name, row.threshold, row.reward_low, row.critical, row.anchor) for row in environments.list_environments(store)
        ],
        "versions": [
            (row.name, row.parent, row.state, row.hash, row.path, row.targets, row.pinned) for row in versions.list_versions(store)
        ],
        "moves": [(row.kind, row.from_version, row.to_version, row.gate, row.reason) for row in versions.moves(store)],
        "tasks": [(row.task, row.source, row.episodes) for row in tasks.list_tasks(store)],
        "jobs": [(row.id, row.kind, row.targets, row.options, row.state, row.candidate, row.result) for row in jobs.list_jobs(store)],
        "steps": [(row.n, row.diagnostics) for row in jobs.steps(store, 1)],
        "manifests": manifests.manifests(store, 1),
        "gates": [(row.id, row.candidate, row.verdict, row.reason, row.evidence, gates.pairs_of(store, row.id)) for row in found],
        "episodes": episodes,
        "rates": success_rates(store, "v0"),
        "counts": counts(store),
        "processes": [(row.name, row.pid, row.state, row.detail) for row in processes.processes(store)],
        "events": [(row.kind, row.subject, row.message) for row in processes.events(store)],
        "rewards": {row.id: found for row in listed if (found := rewards_of(store, row.id))},
        "device": processes.device_owner(store, CLOCK),
        "precision": processes.kept_precision(store, "cpu", lambda: "measured again"),
    }


def test_there_is_a_fixture_of_every_schema_before_this_one() -> None:
    missing = set(range(1, len(MIGRATIONS))) - set(map(number, KEPT))
    assert not missing, f"before you add a migration, keep a store of the schema before it: see {FIXTURES.parent / 'everything.py'}"


@pytest.mark.parametrize("fixture", KEPT, ids=lambda path: path.stem)
def test_a_store_of_every_schema_becomes_one_of_today(tmp_path: Path, fixture: Path) -> None:
    home = tmp_path / "home"
    of_schema(home, fixture)
    if number(fixture) < len(MIGRATIONS):
        with pytest.raises(RuntimeFailure, match="perdure run"):
            open_store(home)
    with create_store(tmp_path / "fresh") as fresh, create_store(home) as store:
        fill(fresh)
        lacks = {"precision": "measured again"} if fixture == FIRST else {}
        assert contents(store) == contents(fresh) | lacks | ({"rewards": {}} if number(fixture) < REWARDS else {})
        assert store.rows("PRAGMA user_version")[0][0] == len(MIGRATIONS)
        assert store.rows("PRAGMA page_size")[0][0] == PAGE_SIZE_BYTES
        broken = [finding for finding in check(store, CLOCK) if finding.level == "error" and finding.rule != "version-files"]
        assert broken == [], "its adapters are not kept, all else is whole and of today's schema"


def test_the_first_fixture_holds_what_its_time_wrote(tmp_path: Path) -> None:
    """By numbers that stand here, so that no change of today's code can make fixture and code wrong alike."""
    of_schema(tmp_path / "home", FIXTURES / "schema-1.sql")
    with create_store(tmp_path / "home") as store:
        assert versions.serving(store).name == "v1"
        third = get_episode(store, 3)
        assert [turn.prompt_ids for turn in third.turns] == [(1, 2, 3), (1, 2, 3, 10, 256, 20), (1, 2, 3, 10, 256, 20, 11, 256, 21)]
        assert [turn.action_ids for turn in third.turns] == [(10, 256), (11, 256), (12, 256)]
        assert third.turns[0].sampler == VersionRef("v0")
        assert get_episode(store, 6).turns[0].sampler == StepRef(1, 0)
        assert [(found.n, found.episodes, found.on_policy) for found in manifests.manifests(store, 1)] == [
            (1, (6, 7, 8), True),
            (2, (1, 2), False),
        ]
        assert counts(store) == {"episodes": 12, "turns": 15}


MIGRATE = """
import sys
from pathlib import Path
from perdure.memory.store import create_store
create_store(Path(sys.argv[1])).close()
"""


@pytest.mark.parametrize("at", range(1, len(MIGRATIONS) + 1))
def test_a_migration_cut_off_never_happened(tmp_path: Path, at: int) -> None:
    home = tmp_path / "home"
    if at > 1:
        of_schema(home, FIXTURES / "schema-1.sql")
    fault = {**os.environ, "PERDURE_FAULT": f"mid-migration:{max(at - 1, 1)}"}
    done = subprocess.run([sys.executable, "-c", MIGRATE, str(home)], env=fault, timeout=60)
    assert done.returncode == -signal.SIGKILL
    conn = sqlite3.connect(str(home / "perdure.db"))
    assert conn.execute("PRAGMA user_version").fetchone()[0] == (0 if at == 1 else 1)
    assert conn.execute("SELECT count(*) FROM sqlite_master WHERE name = 'foreign_episode'").fetchone()[0] == 0
    conn.close()
    with create_store(home) as store:
        assert [finding for finding in check(store, CLOCK) if finding.rule in ("integrity", "schema")] == []
