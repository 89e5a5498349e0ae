"""Which versions stay in an engine: few, the last used, and those that episodes in play ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes import ListJournal, ScriptedEngine

from perdure.envs.registry import load_here
from perdure.learners.engines.loaded_versions import MOST_LOADED, LoadedVersions
from perdure.learners.engines.serving_model import ServingModel
from perdure.learners.gate.engine_player import EnginePlayer
from perdure.learners.gate.player import Sampling
from perdure.learners.learning_job import JobRun
from perdure.memory import versions
from perdure.memory.errors import RuntimeFailure, UnknownError
from perdure.memory.records import Lease, StepRef, VersionRef
from perdure.memory.store import Store, create_store

LINES = "py:tests.learners.easy:Starts"
TABLE = "py:tests.envs.tables:Table"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A home with v0 to v4, which differ in name only, and v5, whose files are missing."""
    with create_store(tmp_path / "home") as made:
        versions.add_initial(made, "scripted", "0" * 64)
        for name in ("v1", "v2", "v3", "v4"):
            versions.add_candidate(made, None, name, "v0", "h", None, [], None)
        (made.home / "versions" / "v5").mkdir()
        versions.add_candidate(made, None, "v5", "v0", "h", "versions/v5", [], None)
        yield made


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(context_limit=4096)


def names(engine: ScriptedEngine) -> set[str]:
    return {str(sampler) for sampler in engine.loaded}


def test_the_least_recently_used_version_is_unloaded(store: Store, engine: ScriptedEngine) -> None:
    loaded = LoadedVersions(store, engine)
    for name in ("v0", "v1", "v2", "v0"):
        assert loaded.load(name) == VersionRef(name)
    assert names(engine) == {"v0", "v1", "v2"}
    assert len(engine.loaded) == MOST_LOADED
    loaded.load("v3")
    assert names(engine) == {"v0", "v2", "v3"}
    loaded.load("v1")
    assert names(engine) == {"v0", "v1", "v3"}


def test_pinned_versions_stay_and_steps_of_a_job_are_left_alone(store: Store, engine: ScriptedEngine) -> None:
    engine.load(StepRef(1, 0), {})
    loaded = LoadedVersions(store, engine, most=2)
    loaded.pin("v0")
    loaded.load("v1")
    for name in ("v2", "v3"):
        loaded.pin(name)
    assert names(engine) == {"v0", "v2", "v3", str(StepRef(1, 0))}
    loaded.unpin()
    loaded.load("v4")
    assert names(engine) == {"v3", "v4", str(StepRef(1, 0))}


def test_a_version_that_cannot_be_read_unloads_none(store: Store, engine: ScriptedEngine) -> None:
    loaded = LoadedVersions(store, engine, most=1)
    loaded.load("v0")
    with pytest.raises(UnknownError, match="v9"):
        loaded.load("v9")
    with pytest.raises(RuntimeFailure, match="v5"):
        loaded.load("v5")
    assert names(engine) == {"v0"}


def test_a_version_that_another_loaded_or_unloaded_is_seen(store: Store, engine: ScriptedEngine) -> None:
    loaded, other = LoadedVersions(store, engine, most=1), LoadedVersions(store, engine)
    other.load("v1")
    loaded.load("v1")
    loaded.load("v2")
    assert names(engine) == {"v2"}
    other.load("v1")
    assert names(engine) == {"v1", "v2"}


def test_an_opponent_that_serves_is_the_one_that_served_at_the_start(store: Store, engine: ScriptedEngine) -> None:
    opponents = LoadedVersions(store, engine).opponents("v1")
    assert [opponents(name)[0] for name in ("serving", "v2")] == [VersionRef("v1"), VersionRef("v2")]
    assert names(engine) == {"v1", "v2"}


def test_the_actor_has_the_serving_version_and_its_opponents_loaded(store: Store, engine: ScriptedEngine) -> None:
    model = ServingModel(store, engine)
    model.load("v1")
    for name in ("v0", "v2"):
        model.opponent(name)
    assert names(engine) == {"v0", "v1", "v2"}
    model.load("v3")
    assert names(engine) == {"v3"}
    model.opponent("v3")
    model.load("v3")
    assert names(engine) == {"v3"}


def test_a_player_keeps_few_versions_and_all_opponents_of_a_batch(store: Store, engine: ScriptedEngine) -> None:
    player = EnginePlayer(
        versions=LoadedVersions(store, engine, most=2),
        run=JobRun(store=store, lease=Lease(subject=1, owner="test", attempt=1), journal=ListJournal()),
        load=load_here,
        purpose="probe",
        sampling=Sampling(temperature=0.0, samples=1),
        width=4,
    )
    for version in ("v0", "v1", "v2", "v0"):
        assert player.scores(version, [(LINES, 2**31)]) != [(None,)]
    assert names(engine) == {"v0", "v2"}
    assert (None,) not in player.scores("v0", [(f"{TABLE}?opponent={name}", 2**31) for name in ("v1", "v2", "v3")])
    assert names(engine) == {"v0", "v1", "v2", "v3"}
    player.scores("v4", [(LINES, 2**31)])
    assert names(engine) == {"v3", "v4"}
