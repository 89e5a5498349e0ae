from __future__ import annotations

import numpy as np
import pytest

from perdure.envs.environment import Environment
from perdure.envs.guarded import GuardedEnv, Outcome
from perdure.envs.gymnasium_adapter import unescaped, written
from perdure.envs.registry import load_here as load
from perdure.memory.errors import InputError, UnknownError


def started(environment: Environment, seed: int = 5) -> tuple[GuardedEnv, str]:
    env = GuardedEnv(environment)
    return env, env.reset(seed)


def steps(name: str, actions: list[str]) -> list[Outcome]:
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
    assert (outcomes[1].observation, outcomes[1].terminated, outcomes[1].success) == ("not an action: fly", True, False)
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
    assert environment.instructions == "Reply with only one of: 0, 1."
    assert started(environment)[1].count(",") == 3


@pytest.mark.parametrize("name", ["gym:FrozenLak-v1", "gym:Taxi-v3", "gym:no.module:ns/X-v0", "gym:FrozenLake-v99"])
def test_an_id_that_is_not_registered_is_unknown(name: str) -> None:
    with pytest.raises(UnknownError, match="gym:"):
        load(name)


def test_what_cannot_be_answered_in_text_is_refused() -> None:
    with pytest.raises(InputError, match="only Discrete can be put in text"):
        load("gym:Pendulum-v1")
    with pytest.raises(InputError, match="KeyError: '3x3'"):
        load("gym:FrozenLake-v1?map_name=3x3")
    with pytest.raises(InputError, match="no option is named 'is_slipery'; did you mean is_slippery"):
        load("gym:FrozenLake-v1?is_slipery=false")


@pytest.mark.parametrize(
    ("observation", "text"),
    [
        ("as it is", "as it is"),
        (7, "state 7"),
        (np.int64(7), "state 7"),
        ((1, 2), "1, 2"),
        ({"hand": np.array([1, 2]), "turn": 3}, "hand: [1, 2]\nturn: 3"),
        (np.array([[1, 0], [0, 1]]), "[[1, 0], [0, 1]]"),
    ],
)
def test_observations_of_other_spaces_are_written_out(observation: object, text: str) -> None:
    assert written(observation) == text


def test_nested_colours_become_nested_brackets() -> None:
    assert unescaped("a\x1b[35m\x1b[43mY\x1b[0m\x1b[0mb\x1b[34;1mR\x1b[0m\x1b[2K\n") == "a{[Y]}b(R)"
