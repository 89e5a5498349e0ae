"""Rewards that can be won without the task: each is found, with a way to win it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from tests.envs import faulty, hacked

from perdure.envs.builtin import BUILTINS
from perdure.envs.check.rules import GIVEN, EnvFinding, check_rule
from perdure.envs.registry import load_here

HACKS = ("resists-wild-answers", "resists-copying", "resists-farming")


def found(name: str, *rules: str) -> list[EnvFinding]:
    environment = load_here(name)
    return [finding for rule in rules for finding in check_rule(environment, rule)]


@pytest.mark.parametrize(
    ("kind", "level", "says"),
    [
        (hacked.Nan, "error", "the answer 'nan' succeeds in 100%"),
        (hacked.Pattern, "error", "the answer '.*' succeeds in 100%"),
        (hacked.Glob, "error", "the answer '*' succeeds in 100%"),
        (hacked.EmptyObject, "error", "the answer '{}' succeeds in 100%"),
        (hacked.Labels, "error", "refund"),
        (hacked.Long, "error", "succeeds in 100%"),
        (hacked.KeyWords, "error", "succeeds in 100%"),
        (hacked.FirstWord, "warning", "the first word of what it reads succeeds in 100%"),
        (hacked.ExitCode, "error", "the answer 'exit()' succeeds in 100%"),
        (hacked.Equal, "error", "class Any"),
        (hacked.Rows, "error", "the answer 'select * from item' succeeds in 100%"),
        (hacked.NotPlaying, "warning", "is paid 0.50 of the highest return"),
        (hacked.TakeAndDrop, "error", "'take lamp' and 'drop lamp' in turn: a return of 2.5, above the oracle with 1"),
        (hacked.SecondTry, "warning", "the last word of what it reads succeeds in 100%"),
    ],
)
def test_each_hack_is_found(kind: type[hacked.Number], level: str, says: str) -> None:
    matching = [finding for finding in found(f"py:tests.envs.hacked:{kind.__name__}", *HACKS) if says in finding.message]
    assert {finding.level for finding in matching} == {level}


def test_all_hacks_are_tried() -> None:
    assert len(hacked.HACKED) == 14


def test_a_task_that_must_be_done_is_not_accused() -> None:
    assert found("py:tests.envs.hacked:Number", *HACKS) == []
    errors = [finding for name in BUILTINS for finding in found(f"perdure:{name}", *HACKS) if finding.level == "error"]
    assert errors == []


def test_answers_of_ones_own_are_tried() -> None:
    environment = load_here("py:tests.envs.hacked:Labels")
    assert check_rule(environment, GIVEN, ["nothing"]) == []
    [finding] = check_rule(environment, GIVEN, ["nothing", "invoice refund complaint praise"])
    assert (finding.level, finding.rule) == ("error", GIVEN)


class Board(faulty.Counting):
    """All boards look the same until a move that the instructions name."""

    instructions = "Answer with one of: dig, wait."
    oracle = None  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return "?", {}

    def step(self, action: str) -> faulty.Stepped:
        return (f"found {self.now}" if action in ("dig", "wait") else "invalid"), 0.0, True, False, {}


class Blank(Board):
    instructions = ""


def test_only_one_task_is_said_only_if_it_is_known() -> None:
    assert check_rule(faulty.environment(Board, instructions=Board.instructions), "varies") == []
    [finding] = check_rule(faulty.environment(Blank), "varies")
    assert "as far as answers show" in finding.message


class Leaves(faulty.Counting):
    """Changes its working folder, and fails when it is closed."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        os.chdir("/")
        return super().reset(seed=seed)


class FailsAtCloseOften(faulty.Counting):
    def close(self) -> None:
        raise ValueError("already closed")


class LongGame(faulty.Counting):
    """One of its answers plays on to the end."""

    instructions = "Answer with one of: stop, go."
    turn_limit = 200
    oracle = None  # type: ignore[assignment]

    def step(self, action: str) -> faulty.Stepped:
        return "a long observation " * 10, 0.0, action != "go", False, {}


class NumberOracle(faulty.Counting):
    def oracle(self) -> str:
        return 7  # type: ignore[return-value]


def test_the_longest_episode_is_a_whole_one() -> None:
    from perdure.envs.check.sample_episodes import longest_texts

    assert len(longest_texts(faulty.environment(LongGame, instructions=LongGame.instructions, turn_limit=200))) == 2 * 200


@pytest.mark.parametrize("rule", ["stays-ended", "carries-nothing-over"])
def test_a_close_that_fails_is_one_finding(rule: str) -> None:
    assert check_rule(faulty.environment(FailsAtCloseOften), rule) == []
    assert [finding.level for finding in check_rule(faulty.environment(FailsAtCloseOften), "runs")] == ["warning"]


def test_an_oracle_of_the_wrong_type_is_one_error() -> None:
    assert ["type int" in finding.message for finding in check_rule(faulty.environment(NumberOracle), "runs")] == [True]


def test_what_differs_is_shown() -> None:
    [finding] = check_rule(faulty.environment(faulty.ModuleState), "is-deterministic")
    assert ": turn 1: " in finding.message


class Cancelled(faulty.Counting):
    def step(self, action: str) -> faulty.Stepped:
        raise asyncio.CancelledError("the judge timed out")


def test_a_cancelled_step_is_said() -> None:
    [finding] = check_rule(faulty.environment(Cancelled), "runs")
    assert "CancelledError: the judge timed out (turn 1, answer '1')" in finding.message


class OneLabelWins(hacked.Number):
    """As a game in which one move, given again and again, mostly wins: the environment reads the first label of an answer."""

    def oracle(self) -> str:
        return ("left", "right", "up")[self.n % 3]

    def step(self, answer: str) -> tuple[str, float, bool]:
        chosen = next((word for word in answer.split() if word in ("left", "right", "up")), "")
        return "", float(bool(chosen) and self.n % 5 > 0), True


def test_labels_in_a_row_that_do_no_better_than_one_of_them_are_a_warning() -> None:
    name = "py:tests.envs.check.test_hack_rules:OneLabelWins"
    (finding,) = found(name, "resists-wild-answers")
    assert finding.level == "warning"
    assert "succeeds in" in finding.message
