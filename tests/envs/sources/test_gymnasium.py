from __future__ import annotations

from enum import IntEnum
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Text

from perdure.envs.environment import Environment, StepOutcome
from perdure.envs.guarded import EnvironmentFault, GuardedEnv
from perdure.envs.registry import load_here as load
from perdure.envs.scripted import by_oracle, has_oracle, play_scripted
from perdure.memory.errors import InputError, UnknownError


def started(environment: Environment, seed: int = 5) -> tuple[GuardedEnv, str]:
    env = GuardedEnv(environment)
    return env, env.reset(seed)


def steps(name: str, actions: list[str]) -> list[StepOutcome]:
    env, _ = started(load(name))
    return [env.step(action) for action in actions]


def test_frozen_lake_is_shown_without_escapes_and_with_its_place() -> None:
    assert started(load("gym:FrozenLake-v1"))[1] == "[S]FFF\nFHFH\nFFFH\nHFFG"


def test_frozen_lake_is_won_by_names_and_numbers() -> None:
    outcomes = steps("gym:FrozenLake-v1?is_slippery=false", ["down", "1", "Right.", "[right]", " DOWN ", "2"])
    assert [outcome.reward for outcome in outcomes] == [0, 0, 0, 0, 0, 1]
    assert [outcome.success for outcome in outcomes] == [False] * 5 + [True]


def test_what_is_no_action_ends_the_episode_at_the_lowest_return() -> None:
    outcomes = steps("gym:CliffWalking-v1", ["up", "fly"])
    assert (outcomes[1].terminated, outcomes[1].success) == (True, False)
    assert outcomes[1].observation == "not an action: 'fly' does not fit. Reply with only one of up, right, down, left."
    assert (outcomes[0].invalid, outcomes[1].observation) == (None, f"not an action: {outcomes[1].invalid}")
    environment = load("gym:CliffWalking-v1")
    assert sum(outcome.reward for outcome in outcomes) == environment.reward_low


def test_cliff_walking_succeeds_by_its_return() -> None:
    outcomes = steps("gym:CliffWalking-v1", ["up", *["right"] * 11, "down"])
    assert (outcomes[-1].terminated, outcomes[-1].success, sum(outcome.reward for outcome in outcomes)) == (True, True, -13)


def test_blackjack_names_the_parts_of_what_is_seen() -> None:
    environment = load("gym:Blackjack-v1")
    assert [line.split(":")[0] for line in started(environment)[1].splitlines()] == ["your sum", "dealer shows", "usable ace"]
    assert (environment.reward_low, environment.reward_high) == (-1, 1)


def test_taxi_tells_taxi_passenger_and_destination_apart() -> None:
    board = started(load("gym:Taxi-v4"), seed=6)[1]
    assert "[ ]" in board
    assert "(G)" in board
    assert "{B}" in board
    assert "\x1b" not in board


def test_turns_are_limited_by_what_is_registered_and_by_fifty() -> None:
    assert load("gym:FrozenLake-v1").turn_limit == 50
    assert load("gym:Taxi-v4?turn_limit=60").turn_limit == 60


def test_a_module_before_the_id_is_imported_first() -> None:
    environment = load("gym:tests.envs.registers_itself:tests/Counting-v0?reward=0.5")
    env, first = started(environment)
    assert [env.step(str(int(first) + n)).reward for n in (1, 2, 3)] == [0, 0, 0.5]
    assert environment.instructions == "Count."


def test_other_discrete_actions_go_by_number() -> None:
    environment = load("gym:CartPole-v1")
    assert environment.instructions == "Reply with only one of 0, 1."
    assert len(started(environment)[1].split()) == 4


class Moves(IntEnum):
    turn_left = 0
    turn_right = 1
    forward = 2


class Enumerated(gymnasium.Env[int, int]):
    """As minigrid's: the actions have names."""

    actions = Moves
    observation_space = Discrete(3)
    action_space = Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return int(action), float(action == Moves.forward), True, False, {}


class OtherEnumeration(Enumerated):
    """The enumeration is not of its actions."""

    action_space = Discrete(4)


def test_actions_of_an_enumeration_go_by_their_names() -> None:
    environment = load("py:tests.envs.sources.test_gymnasium:Enumerated")
    assert environment.instructions == "Reply with only one of turn_left, turn_right, forward."
    assert [started(environment)[0].step(answer).reward for answer in ("forward", "turn_left")] == [1, 0]
    assert load("py:tests.envs.sources.test_gymnasium:OtherEnumeration").instructions == "Reply with only one of 0, 1, 2, 3."


@pytest.mark.parametrize("name", ["gym:FrozenLak-v1", "gym:Taxi-v3", "gym:no.module:ns/X-v0", "gym:FrozenLake-v99"])
def test_an_id_that_is_not_registered_is_unknown(name: str) -> None:
    with pytest.raises(UnknownError, match="gym:"):
        load(name)


def test_a_registered_dictionary_is_a_default_with_its_type() -> None:
    name = "gym:tests.envs.registers_itself:tests/Weighted-v0"
    assert load(f'{name}?weights={{"a":1}}').name == name
    assert load(f'{name}?weights={{"b":2}}').name == name + "?weights={%22b%22:+2}"
    with pytest.raises(InputError, match="option weights=3 is not of type dict"):
        load(f"{name}?weights=3")


def test_what_cannot_be_answered_in_text_is_refused() -> None:
    with pytest.raises(InputError, match=r"has observations that cannot be text: 30000 numbers .*py:package.module:Class"):
        load("py:tests.envs.sources.test_gymnasium:Pictures")
    with pytest.raises(InputError, match="KeyError: '3x3'"):
        load("gym:FrozenLake-v1?map_name=3x3")
    with pytest.raises(InputError, match="no option is named 'is_slipery'; did you mean is_slippery"):
        load("gym:FrozenLake-v1?is_slipery=false")


@pytest.mark.parametrize(
    ("name", "turns", "total"),
    [
        ("gym:FrozenLake-v1?is_slippery=false", 6, 1),
        ("gym:FrozenLake-v1?is_slippery=false&map_name=8x8", 14, 1),
        ("gym:CliffWalking-v1", 13, -13),
        ("gym:Taxi-v4", None, None),
    ],
)
def test_toys_with_a_table_of_transitions_are_solved(name: str, turns: int | None, total: float | None) -> None:
    environment = load(name)
    for seed in range(20):
        played = play_scripted(environment, seed, by_oracle)
        assert played.success
        assert turns in (None, len(played.exchanges))
        assert total in (None, played.total_reward)
        assert not any(action.isdigit() for _, action in played.exchanges)


@pytest.mark.parametrize(
    "name",
    ["gym:FrozenLake-v1", "gym:CliffWalking-v1?is_slippery=true", "gym:Taxi-v4?is_rainy=true", "gym:Blackjack-v1", "gym:CartPole-v1"],
)
def test_where_chance_has_a_part_there_is_no_oracle(name: str) -> None:
    assert not has_oracle(load(name))
    with pytest.raises(InputError, match=r"has no oracle\(\)"):
        load(f"{name}{'&' if '?' in name else '?'}shots=1")


def test_solved_toys_can_be_shown_before_the_task() -> None:
    examples = load("gym:Taxi-v4?shots=2").examples
    assert [action for _, action in examples].count("dropoff") == 2
    assert load("gym:FrozenLake-v1?is_slippery=false&shots=1").examples[0] == ("[S]FFF\nFHFH\nFFFH\nHFFG", "down")


def test_numbers_are_actions_if_the_space_is_a_box() -> None:
    environment = load("gym:Pendulum-v1?reward_low=-2000&reward_high=0")
    assert environment.instructions == "Reply with only a number from -2 to 2."
    env, first = started(environment)
    assert len(first.split()) == 3
    assert env.step("-1.5").invalid is None
    outcome = env.step("-2.5")
    assert outcome.invalid == "'-2.5' is out of bounds. Reply with only a number from -2 to 2."
    assert (outcome.terminated, outcome.success) == (True, False)


def test_the_lowest_return_is_the_one_that_was_asked_for() -> None:
    for name, lowest in (("gym:Pendulum-v1?reward_low=-2000", -2000), ("gym:CliffWalking-v1?reward_low=-70", -70)):
        total = sum(outcome.reward for outcome in steps(name, ["0", "no action"]))
        assert total == pytest.approx(lowest)


LENIENT = "gym:CliffWalking-v1?invalid_limit=3&invalid_penalty=-0.5"


def test_with_a_limit_an_episode_goes_on_after_what_is_no_action() -> None:
    outcomes = steps(LENIENT, ["fly", "fly", "up", "fly", "fly", *["right"] * 11, "down"])
    assert [outcome.reward for outcome in outcomes[:5]] == [-0.5, -0.5, -1, -0.5, -0.5]
    assert [outcome.invalid is None for outcome in outcomes[:6]] == [False, False, True, False, False, True]
    assert outcomes[0].observation.startswith("not an action: 'fly' does not fit. Reply with only one of up, ")
    assert (outcomes[-1].terminated, outcomes[-1].success) == (True, True)


def test_so_many_in_a_row_end_it_at_the_lowest_return() -> None:
    outcomes = steps(LENIENT, ["fly", "up", "fly", "fly", "fly"])
    assert [outcome.ended for outcome in outcomes] == [False, False, False, False, True]
    assert sum(outcome.reward for outcome in outcomes) == load(LENIENT).reward_low
    assert outcomes[-1].success is False


def test_what_the_environment_said_of_success_stands_after_what_is_no_action() -> None:
    env, _ = started(load("py:tests.envs.sources.test_gymnasium:Stubborn?invalid_limit=2"))
    assert env.step("1").success is False
    assert env.step("fly").success is False


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gym:FrozenLake-v1?invalid_limit=0", "invalid_limit=0 must be at least 1"),
        ("gym:FrozenLake-v1?invalid_penalty=0.5", "invalid_penalty=0.5 a number up to 0"),
        ("gym:FrozenLake-v1?invalid_penalty=-Infinity", "invalid_penalty=-inf a number up to 0"),
        ("py:tests.envs.sources.test_gymnasium:Spoken?invalid_limit=2", "decides itself what is not an action"),
        ("gym:FrozenLake-v1?invalid_penalty=NaN", "invalid_penalty=nan a number up to 0"),
        ("py:tests.envs.faulty:Counting?invalid_limit=2", "decides itself what is not an action: leave invalid_limit"),
        ("py:tests.envs.sources.test_gymnasium:Misnamed", "do not fit"),
    ],
)
def test_what_cannot_be_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(name)


def test_text_that_is_said_is_the_business_of_the_environment() -> None:
    environment = load("py:tests.envs.sources.test_gymnasium:Spoken")
    env, first = started(environment)
    assert (environment.instructions, first) == ("", "state 0")
    outcomes = [env.step(text) for text in ("ä, b; c", "  ")]
    assert [(outcome.observation, outcome.invalid) for outcome in outcomes] == [("state 7", None), ("state 2", "not an action")]


def test_limits_of_answers_are_part_of_the_name() -> None:
    assert load(LENIENT).name == LENIENT
    assert load("gym:CliffWalking-v1?invalid_limit=1&invalid_penalty=0").name == "gym:CliffWalking-v1"


def test_wrappers_that_are_registered_with_an_environment_are_used() -> None:
    env, first = started(load("gym:tests.envs.registers_itself:tests/Flattened-v0"))
    assert len(first.split()) == 32 + 11 + 2
    assert env.step("stick").invalid is not None


def test_what_cannot_be_shown_is_an_error_of_the_environment() -> None:
    env = GuardedEnv(load("py:tests.envs.sources.test_gymnasium:Garbled"))
    env.reset(1)
    with pytest.raises(
        EnvironmentFault, match="TypeError: the observation space has Discrete of shape \\(\\), but the observation has bytes"
    ):
        env.step("1")


class Stubborn(gymnasium.Env[Any, Any]):
    """Never succeeds, and says so, though it pays."""

    def __init__(self) -> None:
        self.observation_space: Any = Discrete(5)
        self.action_space: Any = Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return 1, 5.0, False, False, {"success": False}


class Garbled(Stubborn):
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return b"1", 0.0, False, False, {}


class Pictures(Stubborn):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = Box(0, 255, (100, 100, 3), np.uint8)


class Spoken(Stubborn):
    """Numbers are seen, words are said."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = Text(9)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return len(action), 0.0, False, False, {"invalid_action": action.isspace()}


class Misnamed(Stubborn):
    action_names = ("left", "right")
