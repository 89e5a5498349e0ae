"""Environments as persons retire and restore them."""

from __future__ import annotations

import pytest
from tests.agent.changes.conftest import ANNA, rows
from tests.memory.conftest import ADD, SORT

from perdure.agent.changes.environment_use import restore, retire
from perdure.memory import environments
from perdure.memory.errors import Conflict, InputError
from perdure.memory.store import Store


def test_an_environment_is_retired_and_comes_back(full: Store) -> None:
    assert retire(full, ANNA, SORT, reason="too easy") == {"name": SORT, "retired": True, "tasks_failed": 0, "jobs": [3]}
    assert [row.name for row in environments.environments_in_use(full)] == [ADD]
    with pytest.raises(Conflict, match="is retired already"):
        retire(full, ANNA, SORT)
    assert restore(full, ANNA, SORT) == {"name": SORT, "retired": False, "anchor": environments.anchor_of(full, SORT)}
    with pytest.raises(Conflict, match="is not retired: nothing was changed"):
        restore(full, ANNA, SORT)
    assert rows(full) == [("anna", "env retire", SORT, "too easy"), ("anna", "env restore", SORT, None)]


def test_its_tasks_that_wait_fail(full: Store) -> None:
    waiting = full.rows("SELECT count(*) FROM task WHERE environment = ? AND state = 'queued'", (ADD,))[0][0]
    assert waiting > 0
    assert retire(full, ANNA, ADD)["tasks_failed"] == waiting


@pytest.mark.parametrize("name", ["perdure:nothing", "", "py:os:system", "x'; --", "\ud800", "\0", "e" * 10_000_000])
def test_a_name_that_the_home_does_not_know_is_refused_in_a_line(full: Store, name: str) -> None:
    for ask in (lambda: retire(full, ANNA, name), lambda: restore(full, ANNA, name)):
        with pytest.raises(InputError) as refused:
            ask()
        assert len(str(refused.value)) < 500
    assert rows(full) == []
