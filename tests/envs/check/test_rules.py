"""Each rule of the check, with an environment that breaks it. What traps there are was seen in packages that people use."""

from __future__ import annotations

from typing import Any

import pytest
from tests.envs import faulty

from perdure.envs.check.rules import RULES, check_rule
from perdure.envs.registry import load_here


def found(kind: type[faulty.Counting], rule: str, **settings: Any) -> list[tuple[str, str]]:
    """Levels and messages of what a rule finds."""
    return [(finding.level, finding.message) for finding in check_rule(faulty.environment(kind, **settings), rule)]


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "keeps-to-itself"])
def test_a_good_environment_breaks_no_rule(rule: str) -> None:
    assert found(faulty.Counting, rule) == []


@pytest.mark.parametrize(
    ("kind", "rule", "level", "says"),
    [
        (faulty.FailsAtReset, "runs", "error", "reset raised KeyError"),
        (faulty.FailsAtStep, "runs", "error", "step raised ValueError"),
        (faulty.FailsAtClose, "runs", "warning", "close raised OSError"),
        (faulty.TextReward, "runs", "error", "the reward is 'well done' of type str"),
        (faulty.NanReward, "runs", "error", "the reward is nan"),
        (faulty.NoText, "runs", "error", "text of type int"),
        (faulty.Bytes, "runs", "error", "text of type bytes"),
        (faulty.ExitsAtStep, "runs", "error", "SystemExit: 5"),
        (faulty.NarrowText, "passes-gymnasium", "warning", "observation"),
        (faulty.Unseeded, "passes-gymnasium", "warning", "seed"),
        (faulty.Unseeded, "is-deterministic", "error", "gave different episodes"),
        (faulty.GlobalRandom, "is-deterministic", "error", "gave different episodes"),
        (faulty.ModuleState, "is-deterministic", "error", "gave different episodes"),
        (faulty.SeedsGlobally, "leaves-random-alone", "warning", "self.np_random"),
        (faulty.OneTask, "varies", "warning", "gave the same episode"),
        (faulty.OneTask, "splits-its-tasks", "warning", "200 of 200 probe tasks"),
        (faulty.FewTasks, "splits-its-tasks", "warning", "probe tasks also came up"),
        (faulty.AnythingGoes, "has-a-floor", "error", "an empty answer succeeds in 20 of 20"),
        (faulty.ChokesOnNonsense, "has-a-floor", "error", "step raised ValueError"),
        (faulty.PaysForTrying, "has-a-floor", "warning", "is paid 0.90 of the highest return"),
        (faulty.MostlyYes, "has-a-floor", "warning", "always answering 'yes' succeeds"),
        (faulty.WrongOracle, "oracle-succeeds", "error", "its oracle scored 0"),
        (faulty.Inverted, "oracle-succeeds", "error", "is paid better than the oracle: 0.40 against 0.00"),
        (faulty.Changes, "stays-ended", "warning", "a step after the end"),
        (faulty.Remembers, "carries-nothing-over", "warning", "begins differently"),
        (faulty.SpeaksTemplate, "is-plain-text", "warning", "tokens of chat templates, such as '<|im_end|>'"),
        (faulty.Escapes, "is-plain-text", "warning", "control characters, such as '\\x1b'"),
        (faulty.Surrogates, "is-plain-text", "warning", "control characters, such as '\\ufffd'"),
        (faulty.RepeatsHistory, "is-plain-text", "warning", "observations repeat earlier ones"),
        (faulty.Slow, "is-quick", "warning", "a step takes 0.1"),
    ],
)
def test_each_trap_is_named(kind: type[faulty.Counting], rule: str, level: str, says: str) -> None:
    [*others, last] = [finding for finding in found(kind, rule) if says in finding[1]]
    assert {finding[0] for finding in (*others, last)} == {level}


def test_a_return_outside_its_range_is_found() -> None:
    assert found(faulty.NeverEnds, "keeps-its-range", reward_high=1.0)[0][0] == "error"
    assert found(faulty.NeverEnds, "keeps-its-range", reward_high=1.25) == []


def test_an_echo_is_only_a_warning_because_some_tasks_are_echoes() -> None:
    findings = check_rule(load_here("perdure:copy-word"), "has-a-floor")
    assert [(finding.level, finding.rule) for finding in findings] == [("warning", "has-a-floor")]


def test_where_all_seats_would_answer_alike_nothing_is_said_of_floors() -> None:
    assert check_rule(load_here("py:tests.envs.tables:SecondBegins"), "has-a-floor") == []
