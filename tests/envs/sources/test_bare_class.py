from __future__ import annotations

import random

import numpy as np
import pytest

from perdure.envs.check.rules import check_rule
from perdure.envs.guarded import EnvironmentFault, GuardedEnv
from perdure.envs.registry import load_here as load
from perdure.envs.scripted import by_oracle, play_scripted
from perdure.memory.errors import InputError


def first(name: str, seed: int) -> str:
    return GuardedEnv(load(f"py:tests.envs.bare:{name}")).reset(seed)


@pytest.mark.parametrize("name", ["Sum", "Seeded", "Anything", "Sum?highest=9", "Chooses"])
def test_reset_and_step_are_enough(name: str) -> None:
    played = play_scripted(load(f"py:tests.envs.bare:{name}"), 3, by_oracle)
    assert (played.success, played.score) == (True, 1.0)


def test_what_the_class_says_of_itself_counts() -> None:
    environment = load("py:tests.envs.bare:Sum")
    assert (environment.instructions, environment.turn_limit) == ("Add.", 1)
    assert load("py:tests.envs.bare:Sum?shots=2").examples[0][0].count("+") == 1
    chooses = load("py:tests.envs.bare:Chooses")
    assert (chooses.instructions, chooses.turn_limit, chooses.max_tokens) == ("Reply with only one of left, right.", 6, 8)
    assert (chooses.reward_low, chooses.reward_high, chooses.threshold, chooses.step_timeout_s) == (-1.0, 3.0, 3.0, 7.0)
    assert load("py:tests.envs.bare:Chooses?shots=1").examples == (("state 3", "left"), ("state 2", "left"), ("state 1", "left"))


@pytest.mark.parametrize("name", ["Sum", "Seeded", "Anything"])
def test_a_seed_decides_the_task_and_nothing_else_does(name: str) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    tasks = [first(name, seed) for seed in range(20)]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index,union-attr]
    random.random()
    assert [first(name, seed) for seed in range(20)] == tasks
    assert len(set(tasks)) > 15


def test_gymnasiums_checker_is_not_asked_about_a_class_that_was_not_made_for_it() -> None:
    assert check_rule(load("py:tests.envs.bare:Sum"), "passes-gymnasium") == []


def test_a_generator_of_its_own_without_a_seed_is_found_by_the_check() -> None:
    assert [finding.level for finding in check_rule(load("py:tests.envs.bare:Unseeded"), "is-deterministic")] == ["error"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("TwoValues", r"step returned \(str, float\): it must return \(observation, reward, done\)"),
        ("NoDone", r"step returned \(str, float, dict\)"),
        ("FourWithoutInfo", r"step returned \(str, float, bool, bool\)"),
        ("Nothing", "step returned NoneType"),
        ("TextPaid", "the reward is '1.0' of type str"),
        ("BytesSeen", "step returned text of type bytes"),
    ],
)
def test_what_can_be_read_in_two_ways_is_an_error_of_the_environment(name: str, message: str) -> None:
    env = GuardedEnv(load(f"py:tests.envs.bare:{name}"))
    env.reset(1)
    with pytest.raises(EnvironmentFault, match=message):
        env.step("1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NeedsMore", r"NeedsMore.reset\(level.*\).* cannot be used: .*'level'.* may take seed and options"),
        ("StepsBlindly", r"StepsBlindly.step\(\).* cannot be used: .*takes the action"),
        ("OtherSpaces", "OtherSpaces.action_space is .*: it must be a space of Gymnasium; leave it out"),
        ("OnlyResets", r"is not an environment: it has no method step\(\)"),
    ],
)
def test_what_cannot_be_played_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(f"py:tests.envs.bare:{name}")
