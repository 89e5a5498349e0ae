"""Rows of the table as documents, and back; damaged ones are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.agent.metrics.worked_example import example_table, facts, observation

from perdure.agent.metrics.observation import from_document, of_run, read_table, runs, to_document
from perdure.memory.errors import InputError

ROW = to_document(observation(1, "a", 0.5, update=3))


def test_rows_survive_json() -> None:
    table = example_table()
    for row in (*table.observations, *table.facts):
        assert from_document(json.loads(json.dumps(to_document(row)))) == row


def test_other_rows_of_a_study_are_passed_over() -> None:
    table = read_table([{"kind": "mode-seeking", "drop": 0.1}, {"row": "no kind"}, ROW, to_document(facts(1, "a"))])
    assert (len(table.observations), len(table.facts)) == (1, 1)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"score": None}, "not a finite number"),
        ({"score": float("nan")}, "not a finite number"),
        ({"score": "0.5"}, "not a finite number"),
        ({"stage": "1"}, "'1'"),
        ({"update": 1.5}, "1.5"),
        ({"seed": True}, "True"),
        ({"colour": "red"}, "colour"),
        ({"kind": "other"}, "'other'"),
    ],
)
def test_damaged_rows_are_refused_by_name(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        from_document({**ROW, **change})


def test_a_row_that_lacks_a_key_is_refused() -> None:
    with pytest.raises(InputError, match="subject"):
        from_document({key: value for key, value in ROW.items() if key != "subject"})


def test_runs_and_their_rows() -> None:
    first, second = example_table(seed=1), example_table(arm="y")
    table = read_table([to_document(row) for found in (first, second) for row in (*found.observations, *found.facts)])
    assert [tuple(run) for run in runs(table)] == [("x", "", 1), ("y", "", 0)]
    assert of_run(table, runs(table)[1]) == second
