"""The life of a home, as its store tells it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.ended_jobs import almost, end_with, fallen, lease_next, play_one
from tests.agent.planning.lives import ADD, SORT, SPELL
from tests.results import gate_result

from perdure.agent.planning.life_from_store import read_life
from perdure.agent.planning.life_so_far import LifeSoFar, Standing
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.environments import register, set_measured
from perdure.memory.jobs import add_job
from perdure.memory.processes import record_event
from perdure.memory.stages import Stage, StageShare, set_stages
from perdure.memory.store import Store, create_store
from perdure.memory.trajectories.episodes import RateRow
from perdure.memory.versions import add_initial, promote, rollback


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create_store(tmp_path / "home") as store:
        for name in (ADD, SORT, SPELL):
            register(store, name)
        add_initial(store, "tiny", "hash-of-tiny")
        yield store


def read(store: Store) -> LifeSoFar:
    life = read_life(store)
    assert life is not None
    return life


def rates(store: Store, name: str) -> list[tuple[int, int]]:
    return [(row.successes, row.episodes) for row in next(one for one in read(store).environments if one.name == name).rates]


def learn(store: Store, *targets: str) -> None:
    add_job(store, f"job {len(read(store).jobs)}", targets, LearnOrder(learner="grpo"))


def test_a_home_in_which_no_version_serves_has_no_life_yet(tmp_path: Path) -> None:
    with create_store(tmp_path / "new") as store:
        assert read_life(store) is None


def test_environments_come_with_what_is_known_of_them(store: Store) -> None:
    set_measured(store, SORT, 0.25, True)
    set_stages(store, [Stage(name="now", environments=(StageShare(name=ADD), StageShare(name=SORT)), members=8)])
    with store.write() as db:
        db.execute("INSERT INTO import_batch (path, sha256, label, imported_at) VALUES ('x', 'y', 'desk', 0)")
        for environment, success, reward in ((SPELL, 1, None), (ADD, 0, 1.0), (SORT, None, 0.5)):
            sql = "INSERT INTO foreign_episode (batch, row, environment, success, total_reward) VALUES (1, ?, ?, ?, ?)"
            db.execute(sql, (1 + len(db.execute("SELECT 1 FROM foreign_episode").fetchall()), environment, success, reward))
    add, sort, spell = read(store).environments
    assert [one.name for one in (add, sort, spell)] == [ADD, SORT, SPELL]
    assert [one.streamed for one in (add, sort, spell)] == [True, True, False]
    assert [(one.chance, one.oracle) for one in (add, sort)] == [(None, None), (0.25, True)]
    assert [one.traces for one in (add, sort, spell)] == [None, None, "desk"]
    given = read_life(store, [SPELL])
    assert given is not None
    assert [one.streamed for one in given.environments] == [False, False, True]


def test_rates_are_those_of_the_versions_that_led_to_the_serving_one(store: Store) -> None:
    play_one(store, ADD, [0.0, 1.0, 1.0])
    learn(store, ADD)
    end_with(store, *lease_next(store), gate_result("promote"))
    play_one(store, SORT, [1.0, 1.0])
    assert (rates(store, ADD), rates(store, SORT)) == ([(2, 3), (0, 0)], [(0, 0), (2, 2)])
    assert read(store).environments[0].rates[0] == RateRow(episodes=3, successes=2, groups=1, mixed_groups=1)
    assert read(store).rolled_back == frozenset()
    rollback(store, None, "a test wants it")
    assert rates(store, ADD) == [(2, 3)]
    assert read(store).rolled_back == {"v1"}


def test_the_serving_version_stands_where_its_own_pairs_put_it(store: Store) -> None:
    learn(store, ADD)
    differences = {SORT: [-0.5, 0.25, 0.0, 0.0], SPELL: [-1.0], ADD: [1.0]}
    end_with(store, *lease_next(store), gate_result("promote"), differences)
    add, sort, spell = read(store).environments
    assert sort.standing == Standing(difference=-0.0625, pairs=4)
    assert spell.standing == Standing(difference=-1.0, pairs=1)
    assert add.standing is None, "it is the anchor there itself"


def test_candidates_can_be_used_while_their_files_are_there_and_their_base_serves(store: Store) -> None:
    for result in (almost(SORT), fallen(SORT)):
        learn(store, ADD)
        end_with(store, *lease_next(store), result)
    assert read(store).usable == {"v1", "v2"}
    shutil.rmtree(store.home / "versions" / "v1")
    assert read(store).usable == {"v2"}
    add_job(store, "more", [SORT], LearnOrder(learner="grpo"))
    end_with(store, *lease_next(store), gate_result("promote"))
    assert read(store).usable == frozenset(), "what came before the promotion is no start"


def test_looks_without_a_result_count_since_something_was_queued(store: Store) -> None:
    for kind in ("no learning", "no learning", "learning", "no learning", "verdict", "no learning"):
        record_event(store, kind, "planner", "a test wants it")
    assert read(store).fruitless == 2


def test_a_promotion_by_hand_is_part_of_the_line(store: Store) -> None:
    learn(store, ADD)
    end_with(store, *lease_next(store), almost(SORT))
    promote(store, "v1", "a person knows better")
    assert (read(store).serving, len(read(store).environments[0].rates)) == ("v1", 2)
