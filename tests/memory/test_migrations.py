"""Migrations: an older store is brought to the newest schema, with all that is in it, or stays as it was.

The last migration here is invented. `fixtures/development.sql` is a store that the last development version made; `fixtures/schema-1.sql`
and those of later schemas have a few rows of everything, as the last program with that schema wrote them (none had schema 4).
`fixtures/home-3.tar.gz` is a whole home as that of schema 3 left it: filled by `tests/memory/everything.py:fill`, then pruned, with the
files of versions and an archive.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.memory.conftest import ADD
from tests.memory.everything import CLOCK, DEV_SCORES, PANEL_SCORES, WATCH, fill, leased_job, leased_task, play

from perdure.memory import environments, gates, jobs, processes, tasks, versions, watches
from perdure.memory.contracts.orders import PanelOrder
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.evidence.dev_scores import known_dev_scores
from perdure.memory.evidence.item_scores import keep_panel_scores, panel_scores
from perdure.memory.exchange.export import export
from perdure.memory.exchange.import_traces import import_file
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.schema import DEVELOPMENT_ID, MIGRATIONS, PAGE_SIZE_BYTES
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.trajectories import manifests
from perdure.memory.trajectories.episodes import counts, get_episode, list_episodes, success_rates
from perdure.memory.trajectories.rewards import rewards_of
from perdure.memory.trajectories.traces import foreign_traces
from perdure.memory.upkeep.integrity import check
from perdure.memory.upkeep.prune import Keep, archived_ids, archives, prune

DEVELOPMENT = Path(__file__).parent / "fixtures" / "development.sql"
INVENTED = """
ALTER TABLE event ADD COLUMN severity INTEGER NOT NULL DEFAULT 3;
UPDATE event SET severity = 1 WHERE kind = 'start';
CREATE TABLE invented (x INTEGER NOT NULL) STRICT;
INSERT INTO invented SELECT count(*) FROM episode;
"""
INVENTED_TOO = (*MIGRATIONS, INVENTED)
OLDER = Path(__file__).parent / "fixtures"
KEPT = Keep(episodes=6, live=0)
"""Of the prune of `home-3.tar.gz`."""


def contents(store: Store) -> dict[str, object]:
    """What the public functions read from a store."""
    listed = list_episodes(store, limit=100)
    episodes = [get_episode(store, row.id) for row in listed]
    all_gates = [gate for version in versions.list_versions(store) for gate in gates.gates_of(store, version.name)]
    return {
        "environments": [
            (row.name, row.threshold, row.reward_low, row.critical, row.anchor) for row in environments.list_environments(store)
        ],
        "versions": [
            (row.name, row.parent, row.state, row.hash, row.path, row.targets, row.pinned) for row in versions.list_versions(store)
        ],
        "moves": [(row.kind, row.from_version, row.to_version, row.gate, row.reason) for row in versions.moves(store)],
        "tasks": [(row.task, row.source, row.episodes) for row in tasks.list_tasks(store)],
        "jobs": [(row.id, row.kind, row.targets, row.order, row.state, row.candidate, row.result) for row in jobs.list_jobs(store)],
        "steps": [(row.n, row.update) for row in jobs.steps(store, 1)],
        "manifests": manifests.manifests(store, 1),
        "gates": [(row.id, row.candidate, row.terms, row.result, gates.pairs_of(store, row.id)) for row in all_gates],
        "episodes": episodes,
        "rates": success_rates(store, "v0"),
        "counts": counts(store),
        "processes": [(row.name, row.pid, row.state, row.detail) for row in processes.processes(store)],
        "events": [(row.kind, row.subject, row.message) for row in processes.events(store)],
        "imports": foreign_traces(store, "another pipeline"),
        "rewards": {row.id: given for row in listed if (given := rewards_of(store, row.id))},
        "device": processes.device_owner(store, CLOCK),
        "precision": processes.precision_for(store, "cpu", lambda: "measured again"),
    }


def test_an_older_store_is_migrated_with_all_that_is_in_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with create_store(home) as store:
        fill(store)
        before = contents(store)
    with pytest.raises(
        RuntimeFailure, match=f"has schema {len(MIGRATIONS)}, this program needs {len(INVENTED_TOO)}: start `perdure run` once"
    ):
        open_store(home, INVENTED_TOO)
    for opens in (create_store, open_store, create_store):  # the second time there is nothing to migrate
        with opens(home, INVENTED_TOO) as store:
            assert contents(store) == before
            assert store.rows("PRAGMA user_version")[0][0] == len(INVENTED_TOO)
            assert store.rows("PRAGMA page_size")[0][0] == PAGE_SIZE_BYTES
            assert [row["severity"] for row in store.rows("SELECT severity FROM event WHERE kind = 'start'")] == [1]
            assert [row["x"] for row in store.rows("SELECT x FROM invented")] == [counts(store)["episodes"]]
            changed = {(one.level, one.subject) for one in check(store, CLOCK) if one.rule == "schema"}
            assert changed == {("error", "event"), ("warning", "invented")}, "nothing else of the schema has changed"
    for older in (create_store, open_store):
        with pytest.raises(InputError, match="a newer Perdure wrote it"):
            older(home)


@pytest.mark.parametrize("schema", [1, 2, 3, 5, 6, 7])
def test_a_home_of_an_older_schema_comes_to_todays_with_all_that_is_in_it(tmp_path: Path, schema: int) -> None:
    home, fresh = tmp_path / "home", tmp_path / "fresh"
    home.mkdir()
    conn = sqlite3.connect(str(home / "perdure.db"), isolation_level=None)
    conn.executescript((OLDER / f"schema-{schema}.sql").read_text())
    conn.close()
    with create_store(home) as store, create_store(fresh) as newer:
        fill(newer)
        kept, wanted = contents(store), contents(newer)
        assert kept == wanted, "the same functions wrote both, and what the older program did not write has the value of its time"
        assert [row.name for row in environments.list_environments(store)] == [row.name for row in environments.list_environments(newer)]
        assert [finding for finding in check(store, CLOCK) if finding.rule in ("integrity", "schema", "foreign-keys", "digests")] == []
        assert store.rows("PRAGMA user_version")[0][0] == len(MIGRATIONS)
        assert known_dev_scores(store, 1.0) == ({(ADD, "v0"): DEV_SCORES} if schema > 1 else {})
        assert watches.watches(store, "v1") == ([WATCH] if schema > 1 else [])
        assert (panel_scores(store, "v0"), panel_scores(newer, "v0")) == (PANEL_SCORES if schema > 2 else {}, PANEL_SCORES)
        if schema == 6:
            (told,) = foreign_traces(store, "told")
            assert (told.instructions, told.turns[0].action) == ("Task 5.", "2")
        lease = leased_job(store, "panel", PanelOrder())
        keep_panel_scores(store, lease, "v0", PANEL_SCORES.items())
        assert panel_scores(store, "v0") == PANEL_SCORES


@pytest.fixture
def home_3(tmp_path: Path) -> Path:
    with tarfile.open(OLDER / "home-3.tar.gz") as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path / "home-3"


def test_a_whole_home_of_the_last_schema_without_digests_comes_to_todays(home_3: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="has schema 3, this program needs"):
        open_store(home_3)
    (archive,) = archives(home_3)
    before = archive.read_bytes()
    with create_store(home_3) as store, create_store(tmp_path / "fresh") as newer:
        fill(newer)
        prune(newer, KEPT, lambda line: None)
        assert contents(store) == contents(newer), "episodes, versions, moves, anchors and all else"
        assert check(store, CLOCK) == check(newer, CLOCK) == []
        assert archived_ids(archive) == archived_ids(*archives(newer.home)) != []
        assert archive.read_bytes() == before
        ended = [row["id"] for row in store.rows("SELECT id FROM episode WHERE state <> 'running'")]
        assert ended
        assert store.rows("SELECT count(*) FROM turn WHERE digest IS NOT NULL")[0][0] == 0, "a migration does not write every turn anew"
        for episode in ended:
            with suppress(ZeroDivisionError), store.write() as conn:
                assert conn.execute("UPDATE turn SET reward = reward + 1 WHERE episode = ? AND n = 0", (episode,)).rowcount == 1
                found = [(one.rule, one.subject) for one in check(store, CLOCK) if one.level == "error"]
                assert found == [("digests", f"episode {episode}")], "its digest covers its turns"
                raise ZeroDivisionError


@pytest.mark.parametrize("schema", range(4, len(MIGRATIONS)))
def test_a_whole_home_may_stop_at_each_schema_on_its_way(home_3: Path, tmp_path: Path, schema: int) -> None:
    create_store(home_3, MIGRATIONS[:schema]).close()
    with pytest.raises(RuntimeFailure, match=f"has schema {schema}, this program needs {len(MIGRATIONS)}"):
        open_store(home_3)
    with create_store(home_3) as store, create_store(tmp_path / "fresh") as newer:
        fill(newer)
        prune(newer, KEPT, lambda line: None)
        assert contents(store) == contents(newer)
        assert check(store, CLOCK) == []


def test_a_migrated_home_goes_on(home_3: Path, tmp_path: Path) -> None:
    with create_store(home_3) as store:
        play(store, leased_task(store), "new", [1.0, 0.0], turns=2)
        assert store.rows("SELECT count(*) FROM turn WHERE digest IS NOT NULL")[0][0] == 4
        made = export(store, tmp_path / "all.jsonl", "jsonl")
        assert import_file(store, made.path, "ourselves").episodes > 0, "digests of old and new turns can be computed from the export"
        (archive,) = archives(home_3)
        assert import_file(store, archive, "archive").episodes == len(archived_ids(archive))
        prune(store, Keep(episodes=1, live=0), lambda line: None)
        assert len(archives(home_3)) == 2
        assert [one for one in check(store, CLOCK) if one.level == "error"] == []


def test_a_new_store_goes_through_all_migrations(tmp_path: Path) -> None:
    with create_store(tmp_path / "home", INVENTED_TOO) as store:
        fill(store)
        assert store.rows("PRAGMA user_version")[0][0] == len(INVENTED_TOO)
        assert [row["x"] for row in store.rows("SELECT x FROM invented")] == [0]


def test_a_migration_that_fails_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with create_store(home) as store:
        fill(store)
        before = contents(store)
    with pytest.raises(sqlite3.OperationalError, match="no such table: missing"):
        create_store(home, (*INVENTED_TOO, "INSERT INTO missing VALUES (1);"))
    with open_store(home) as store:
        assert contents(store) == before
        assert [finding for finding in check(store, CLOCK) if finding.rule == "schema"] == []


MIGRATE = """
import sys
from pathlib import Path
from perdure.memory.store import create_store
from tests.memory.test_migrations import INVENTED_TOO
create_store(Path(sys.argv[1]), INVENTED_TOO).close()
"""


@pytest.mark.processes
@pytest.mark.parametrize(("before", "at"), [(0, 1), (0, len(INVENTED_TOO)), *((n, 1) for n in range(1, len(INVENTED_TOO)))])
def test_a_migration_that_is_killed_never_happened(tmp_path: Path, before: int, at: int) -> None:
    """Of a store with `before` of the migrations, in the `at`-th one that it still needs."""
    home = tmp_path / "home"
    if before:
        create_store(home, INVENTED_TOO[:before]).close()
    fault = {**os.environ, "PERDURE_FAULT": f"mid-migration:{at}"}
    done = subprocess.run([sys.executable, "-c", MIGRATE, str(home)], env=fault, timeout=60)
    assert done.returncode == -signal.SIGKILL
    conn = sqlite3.connect(str(home / "perdure.db"))
    assert conn.execute("PRAGMA user_version").fetchone()[0] == before
    names = {name for (name,) in conn.execute("SELECT name FROM sqlite_master")}
    conn.close()
    assert ("episode" in names, "invented" in names) == (before > 0, False)
    with create_store(home) as store:
        assert [finding for finding in check(store, CLOCK) if finding.rule in ("integrity", "schema")] == []
    create_store(home, INVENTED_TOO).close()
    with open_store(home, INVENTED_TOO) as store:
        assert [row["x"] for row in store.rows("SELECT x FROM invented")] == [0]


@pytest.mark.parametrize("schema", range(1, 7))
@pytest.mark.parametrize("opens", [open_store, create_store])
def test_a_home_of_a_development_version_is_refused_and_left_as_it_is(tmp_path: Path, opens: Callable[[Path], Store], schema: int) -> None:
    home = tmp_path / "home"
    for folder in ("logs", "run", "versions"):
        (home / folder).mkdir(parents=True)
    conn = sqlite3.connect(str(home / "perdure.db"), isolation_level=None)
    conn.executescript(DEVELOPMENT.read_text())
    assert conn.execute("PRAGMA application_id").fetchone()[0] == DEVELOPMENT_ID
    conn.execute(f"PRAGMA user_version = {schema}")
    conn.close()
    before = (home / "perdure.db").read_bytes()
    with pytest.raises(InputError, match=r"unreleased development version .* cannot be opened: keep that folder, and name another one"):
        opens(home)
    assert (home / "perdure.db").read_bytes() == before
    assert sorted(entry.name for entry in home.iterdir()) == ["logs", "perdure.db", "run", "versions"]
