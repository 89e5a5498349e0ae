"""Environments without any success: who helps them, and how often."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.agent.planning.lives import ADD, SORT, environment, learned, life, rate, verdict

from perdure.agent.planning.first_success import first_success, no_help, stuck
from perdure.agent.planning.life_so_far import EnvironmentNow
from perdure.agent.planning.step_kinds import LearnNext
from perdure.memory.contracts.results import GateResult

NEVER = environment(ADD, rate(1, 0))
NO_GAIN = verdict("reject", "v1", gain="failed")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (rate(0, 0, 16, 2), True),
        (rate(3, 0), True),  # .047
        (rate(4, 0), False),  # .062: rare, but there
        (rate(0, 1), False),  # a mixed group: returns differ, so there is something to learn from
        (rate(0, 0, 15, 2), False),
    ],
)
def test_stuck_is_what_was_played_enough_and_never_succeeds(row: object, expected: bool) -> None:
    assert bool(stuck(life(environments=[environment(ADD, row)]))) is expected  # type: ignore[arg-type]


@pytest.mark.parametrize("oracle", [True, None], ids=["has an oracle", "not known"])
def test_an_oracle_gives_hints(oracle: bool | None) -> None:
    step = first_success(life(environments=[replace(NEVER, oracle=oracle, traces="desk")]))
    assert step == LearnNext(
        targets=(ADD,),
        aim="first success",
        learner="iterative-sft",
        options={"hints": True},
        why="perdure:add succeeds in 2% of its live episodes, too seldom to learn from them: iterative-sft shows it right answers as hints",
    )


def test_without_an_oracle_imported_traces_are_imitated() -> None:
    step = first_success(life(environments=[replace(NEVER, oracle=False, traces="desk")]))
    assert step is not None
    assert (step.learner, step.options, step.aim) == ("trace-sft", {"traces": "import:desk"}, "first success")


def test_without_either_it_is_said() -> None:
    now = life(environments=[replace(NEVER, oracle=False)])
    assert first_success(now) is None
    assert no_help(now) == {
        ADD: "never succeeds and has neither an oracle nor imported traces: make its tasks easier, add shots=3, or import traces"
    }


@pytest.mark.parametrize("result", [NO_GAIN, None], ids=["rejected", "failed"])
def test_help_comes_once_while_a_version_serves(result: GateResult | None) -> None:
    both: list[EnvironmentNow] = [replace(environment(name, rate(0, 0)), oracle=True) for name in (ADD, SORT)]
    helped = learned(1, [ADD], result, aim="first success")
    step = first_success(life(helped, environments=both))
    assert step is not None
    assert step.targets == (SORT,)
    assert first_success(life(helped, environments=both[:1])) is None
    assert no_help(life(helped, environments=both[:1]))[ADD].startswith("was given right answers since this version serves")
    step = first_success(life(learned(2, [SORT], verdict("promote", "v2")), helped, environments=both))
    assert step is not None
    assert step.targets == (ADD,)


def test_a_job_under_another_serving_version_does_not_count_as_help() -> None:
    rolled_back = learned(1, [ADD], replace(NO_GAIN, serving="v9"), aim="first success")
    assert first_success(life(rolled_back, environments=[NEVER])) is not None


def test_what_left_the_stream_is_not_helped() -> None:
    assert first_success(life(environments=[replace(NEVER, streamed=False)])) is None
