"""Which target a learning job of a person takes if none is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.ended_jobs import almost, end_with, lease_next
from tests.results import gate_result

from perdure.agent.changes.target_choice import choose_step
from perdure.agent.planning.life_from_store import read_life
from perdure.agent.planning.next_step import next_step
from perdure.agent.planning.step_kinds import GateNext
from perdure.memory import environments, versions
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.contracts.results import Leg
from perdure.memory.errors import InputError
from perdure.memory.jobs import add_job
from perdure.memory.store import Store, create_store

WORDS, SORT, SPELL = "perdure:words", "perdure:sort", "perdure:spell"
STREAM = [WORDS, SORT, SPELL]
RATE = "version, environment, episodes, successes, groups, mixed_groups"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Store]:
    """A home in which v1, trained on `WORDS`, serves since a moment ago."""
    with create_store(tmp_path / "home") as store:
        for name in (WORDS, SORT, SPELL):
            environments.register(store, name, 1.0, 0.0, 1.0)
        versions.add_initial(store, "base", "hash")
        versions.add_candidate(store, None, "v1", "v0", "of v1", None, [WORDS], None)
        versions.promote(store, "v1", "a test wants it")
        yield store


def said(line: str) -> None:
    """What the planner says is looked at by nobody here."""


def played(store: Store, version: str, environment: str, episodes: int, successes: int) -> None:
    with store.write() as db:
        counts = (episodes, successes, episodes // 4, episodes // 8)
        db.execute(f"INSERT INTO rate ({RATE}) VALUES (?, ?, ?, ?, ?, ?)", (version, environment, *counts))


def test_after_a_promotion_the_episodes_of_the_version_before_count_and_what_was_trained_since_comes_last(home: Store) -> None:
    for environment, successes in ((WORDS, 20), (SORT, 6), (SPELL, 0)):
        played(home, "v0", environment, 64, successes)
    played(home, "v1", SORT, 8, 2)
    step = choose_step(home, STREAM, "grpo", said)
    assert (step.targets, step.start, step.aim) == ((SORT,), None, "gain")


def test_the_episodes_of_the_serving_version_come_first(home: Store) -> None:
    played(home, "v0", SORT, 64, 20)
    played(home, "v1", WORDS, 16, 8)
    assert choose_step(home, STREAM, "grpo", said).targets == (WORDS,)


def test_if_nothing_was_ever_learnable_no_target_is_chosen(home: Store) -> None:
    played(home, "v0", SORT, 8, 2)
    wanted = "no target was chosen: nothing is learnable yet: the serving version has completed no episode yet; name one with"
    with pytest.raises(InputError, match=wanted):
        choose_step(home, STREAM, "grpo", said)


def test_a_verdict_is_followed_as_a_daemon_would(home: Store) -> None:
    store = home
    add_job(store, "first", [SORT], LearnOrder(learner="grpo"))
    end_with(store, *lease_next(store), gate_result("inconclusive", environments={WORDS: Leg(state="passed")}, gain="not shown"))
    step = choose_step(home, STREAM, "grpo", said)
    assert (step.targets, step.start, step.aim, step.follows) == ((SORT,), "v2", "continuation", 1)


def test_a_second_gate_is_left_to_a_daemon(home: Store) -> None:
    store = home
    played(store, "v1", SPELL, 64, 20)
    add_job(store, "first", [SORT], LearnOrder(learner="grpo"))
    end_with(store, *lease_next(store), almost(WORDS))
    assert choose_step(home, STREAM, "grpo", said).targets == (SPELL,)
    life = read_life(store, STREAM)
    assert life is not None
    assert isinstance(next_step(life), GateNext)


def test_where_only_right_answers_help_the_learner_that_gives_them_is_named(home: Store) -> None:
    with home.write() as db:
        db.execute(f"INSERT INTO rate ({RATE}) VALUES ('v1', ?, 64, 0, 8, 0)", (SPELL,))
    wanted = f"`perdure learn iterative-sft --option hints=true --target {SPELL}` does that"
    with pytest.raises(InputError, match=wanted):
        choose_step(home, STREAM, "grpo", said)
    assert choose_step(home, STREAM, "iterative-sft", said).aim == "first success"
