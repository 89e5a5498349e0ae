"""The keys of `--json`: scripts read them, so that they stay as they are."""

from __future__ import annotations

from pathlib import Path

from tests.memory.everything import CLOCK
from tests.memory.exchange.test_import_traces import GOOD, jsonl

from perdure.memory import environments, gates, jobs, processes, tasks, versions
from perdure.memory.changes import list_changes
from perdure.memory.exchange.export import export
from perdure.memory.exchange.import_traces import import_file
from perdure.memory.json_value import Document, to_json
from perdure.memory.store import Store
from perdure.memory.trajectories.episodes import list_episodes, success_rates
from perdure.memory.upkeep.backup import backup
from perdure.memory.upkeep.integrity import check
from perdure.memory.upkeep.prune import Keep, plan

KEYS = {
    "environment": "name threshold reward_low reward_high critical anchor code changed retired",
    "task": "id environment seed state source stage members attempt error episodes created",
    "job": "id kind learner targets options state attempt candidate result error created",
    "version": "name state parent created hash targets job pinned path",
    "move": "kind from to gate reason moved",
    "gate": "gate candidate serving profile verdict reason evidence finished",
    "episode": "id environment seed purpose state success total_reward turns stop_reason sampler task job seat started",
    "rate": "episodes successes success_rate groups mixed_groups",
    "process": "name pid state detail beat started",
    "change": "id made who via what subject reason arguments key",
    "event": "id kind subject message happened",
    "finding": "level rule subject message",
    "export": "path episodes turns size_bytes lost lost_shards",
    "import": "batch label new episodes turns passed_over mended unread",
    "backup": "path size_bytes episodes turns versions lacks shards shard_lacks",
    "prune": "episodes turns kept archives freed_bytes",
}


def documents(store: Store, folder: Path) -> dict[str, Document]:
    """One document of each kind."""
    store.rows("CREATE TABLE odd (x INTEGER) STRICT")
    return {
        "environment": environments.list_environments(store)[0].as_json(),
        "task": tasks.list_tasks(store)[0].as_json(),
        "job": jobs.as_json(jobs.get_job(store, 1)),
        "version": versions.as_json(versions.serving(store)),
        "move": versions.moves(store)[0].as_json(),
        "gate": gates.gates_of(store, "v1")[0].as_json(),
        "episode": list_episodes(store)[0].as_json(),
        "rate": next(iter(success_rates(store, "v0").values())).as_json(),
        "process": processes.processes(store)[0].as_json(),
        "event": processes.events(store)[0].as_json(),
        "change": list_changes(store)[0].as_json(),
        "finding": check(store, CLOCK)[0].as_json(),
        "export": export(store, folder / "e.jsonl", "jsonl").as_json(),
        "import": import_file(store, jsonl(folder / "i.jsonl", GOOD), "desk").as_json(),
        "backup": backup(store, folder / "b.db").as_json(),
        "prune": plan(store, Keep(episodes=1)).as_json(),
    }


def test_every_listing_has_the_keys_that_it_always_had(full: Store, tmp_path: Path) -> None:
    found = documents(full, tmp_path)
    assert {kind: set(document) for kind, document in found.items()} == {kind: set(keys.split()) for kind, keys in KEYS.items()}


def test_times_paths_and_lists_are_written_as_json_has_them(full: Store, tmp_path: Path) -> None:
    found = documents(full, tmp_path)
    for kind, key in (("version", "created"), ("move", "moved"), ("episode", "started"), ("process", "beat"), ("event", "happened")):
        assert found[kind][key].endswith("+00:00"), kind
    assert found["export"]["path"] == str(tmp_path / "e.jsonl")
    assert found["backup"]["versions"] == ["v1", "v2", "v3"]
    full.rows("UPDATE version SET path = 'versions/gone' WHERE name = 'v3'")
    (lack,) = backup(full, tmp_path / "c.db").as_json()["lacks"]
    assert lack.keys() == {"version", "why"}
    assert lack["version"] == "v3"
    for document in found.values():
        assert to_json(document)
