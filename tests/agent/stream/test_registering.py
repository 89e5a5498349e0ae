"""How environments become known to a home."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from perdure.agent.stream.registering import register_environments
from perdure.envs.chance import ChanceLevel
from perdure.envs.registry import load
from perdure.envs.sandbox.sandbox_loading import without_process
from perdure.memory.environments import list_environments, set_measured
from perdure.memory.errors import InputError
from perdure.memory.store import Store, create_store

ADD = load("perdure:add?highest=20")
OPPOSITE = load("perdure:opposite")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create_store(tmp_path / "home") as store:
        yield store


def critical(store: Store) -> list[str]:
    return [row.name for row in list_environments(store) if row.critical]


def test_the_names_are_canonical(store: Store) -> None:
    assert register_environments(store, [ADD, OPPOSITE]) == ["perdure:add", "perdure:opposite"]
    assert [row.name for row in list_environments(store)] == ["perdure:add", "perdure:opposite"]
    assert critical(store) == []


def test_what_is_critical_stays_so_for_a_caller_that_does_not_know(store: Store) -> None:
    register_environments(store, [ADD, OPPOSITE], [OPPOSITE.name])
    register_environments(store, [OPPOSITE])
    assert critical(store) == [OPPOSITE.name]


def test_a_caller_that_knows_decides_what_is_critical(store: Store) -> None:
    register_environments(store, [ADD, OPPOSITE], [OPPOSITE.name])
    register_environments(store, [ADD, OPPOSITE], [ADD.name])
    assert critical(store) == [ADD.name]


def test_an_environment_that_is_known_takes_its_present_settings(store: Store) -> None:
    register_environments(store, [ADD])
    (before,) = list_environments(store)
    register_environments(store, [replace(ADD, threshold=0.5, reward_low=-1.0)])
    (now,) = list_environments(store)
    assert (now.threshold, now.reward_low) == (0.5, -1.0)
    assert now.registered == before.registered  # the anchor depends on it


def test_what_a_new_one_pays_for_no_skill_is_measured_once(store: Store) -> None:
    register_environments(store, [ADD])
    (row,) = list_environments(store)
    assert row.oracle is True
    assert row.chance is not None
    assert row.chance < 0.3
    set_measured(store, ADD.name, 0.9, None)
    register_environments(store, [ADD, OPPOSITE])
    (first, second) = list_environments(store)
    assert (first.chance, first.oracle) == (0.9, None)
    assert second.oracle is True


def test_what_was_measured_before_is_taken_and_nothing_is_played(store: Store) -> None:
    """The description alone cannot be played."""
    register_environments(store, [without_process(ADD)], measured={ADD.name: ChanceLevel(success=0.25, oracle=False)})
    register_environments(store, [without_process(OPPOSITE)], measured={})
    assert [(row.chance, row.oracle) for row in list_environments(store)] == [(0.25, False), (None, None)]


def test_all_become_known_or_none(store: Store) -> None:
    with pytest.raises(InputError, match="the low end must be below the high end"):
        register_environments(store, [ADD, replace(OPPOSITE, reward_low=1.0)])
    assert list_environments(store) == []
