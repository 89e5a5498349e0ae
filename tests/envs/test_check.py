from __future__ import annotations

import pytest
from tests.envs import faulty

from perdure.envs.check import check
from perdure.envs.registry import load


def found(kind: type[faulty.Counting], **settings: object) -> dict[str, str]:
    """Rule -> gravest level of the findings about one of the faulty environments."""
    return {finding.rule: finding.level for finding in reversed(check(faulty.environment(kind, **settings)))}


def test_a_good_environment_has_no_findings() -> None:
    assert check(load("py:tests.envs.faulty:Counting")) == []


@pytest.mark.parametrize(
    ("kind", "rule", "level"),
    [
        (faulty.FailsAtReset, "runs", "error"),
        (faulty.FailsAtStep, "runs", "error"),
        (faulty.TextReward, "runs", "error"),
        (faulty.NanReward, "runs", "error"),
        (faulty.NoText, "runs", "error"),
        (faulty.ExitsAtStep, "runs", "error"),
        (faulty.ExitsAtClose, "stays-ended", "error"),
        (faulty.GlobalRandom, "is-deterministic", "error"),
        (faulty.HashOrder, "is-the-same-elsewhere", "error"),
        (faulty.OneTask, "varies", "warning"),
        (faulty.OneTask, "splits-its-tasks", "warning"),
        (faulty.AnythingGoes, "has-a-floor", "error"),
        (faulty.PaysForTrying, "has-a-floor", "warning"),
        (faulty.WrongOracle, "oracle-succeeds", "error"),
        (faulty.Changes, "stays-ended", "warning"),
        (faulty.Remembers, "carries-nothing-over", "warning"),
    ],
)
def test_each_broken_rule_is_found(kind: type[faulty.Counting], rule: str, level: str) -> None:
    assert found(kind).get(rule) == level


def test_a_return_outside_its_range_is_found() -> None:
    assert found(faulty.NeverEnds, reward_high=1.0)["keeps-its-range"] == "error"
    assert "keeps-its-range" not in found(faulty.NeverEnds, reward_high=1.25)


def test_a_hang_is_found() -> None:
    [finding] = check(faulty.environment(faulty.Hangs, step_timeout_s=0.2))
    assert finding.as_json() == {"level": "error", "rule": "runs", "message": "step took longer than 0.2 s"}


def test_errors_come_first() -> None:
    levels = [finding.level for finding in check(faulty.environment(faulty.AnythingGoes))]
    assert levels == sorted(levels)


def test_an_echo_is_only_a_warning_because_some_tasks_are_echoes() -> None:
    assert [(finding.level, finding.rule) for finding in check(load("perdure:copy-word"))] == [("warning", "has-a-floor")]
