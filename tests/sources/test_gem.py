from __future__ import annotations

import logging
import random

import numpy as np
import pytest

from perdure.envs.guarded import GuardedEnv
from perdure.envs.registry import load_here as load
from perdure.envs.scripted import fixed, play_scripted
from perdure.envs.sources.gem import boxed
from perdure.memory.errors import InputError, UnknownError

GUESS = "gem:game:GuessTheNumber-v0-easy"


def test_a_number_is_found_by_halving() -> None:
    environment = load(f"{GUESS}?max_number=7")
    assert (environment.name, environment.turn_limit, environment.reward_low) == (f"{GUESS}?max_number=7", 4, -0.1)
    env = GuardedEnv(environment)
    assert "between 1 and 7" in env.reset(5)
    low, high = 1, 7
    while True:
        guess = (low + high) // 2
        outcome = env.step(str(guess))
        if outcome.ended:
            break
        assert outcome.observation.endswith("\nEnter your next guess.")
        low, high = (guess + 1, high) if "higher" in outcome.observation else (low, guess - 1)
    assert (outcome.success, outcome.reward, outcome.invalid) == (True, 1.0, None)


def test_the_board_is_shown_at_the_beginning_and_in_each_turn() -> None:
    env = GuardedEnv(load("gem:game:Minesweeper-v0-easy"))
    assert "current board layout" in env.reset(1)
    shown = env.step("reveal 2 2")
    assert shown.ended or "current board layout" in shown.observation


def test_what_cannot_be_read_ends_the_game_below_nothing_and_is_said_to_be_invalid() -> None:
    env = GuardedEnv(load(GUESS))
    env.reset(1)
    outcome = env.step("hello")
    assert (outcome.reward, outcome.ended, outcome.success) == (-0.1, True, False)
    assert outcome.invalid is not None
    assert "did not provide a valid guess" in outcome.invalid


def test_partial_credit_is_no_success() -> None:
    environment = load("gem:game:GuessTheNumber-v0-hard?max_turns=1")
    played = [play_scripted(environment, seed, fixed("25")) for seed in range(60)]
    failed = [one for one in played if not one.success]
    assert len(failed) > 50
    assert all(one.score == 0.0 for one in failed)
    assert sum(one.total_reward for one in failed) / len(failed) > 0.5


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("5", "\\boxed{5}"),
        (" **5**.", "\\boxed{5}"),
        ("\\boxed{5}", "\\boxed{5}"),
        ("I say \\boxed{5}, then \\boxed{6}", "I say \\boxed{5}, then \\boxed{6}"),
    ],
)
def test_replies_reach_the_game_in_its_box(reply: str, read: str) -> None:
    assert boxed(reply) == read


@pytest.mark.parametrize(
    "name", ["GuessTheNumber-v0-random", "Mastermind-v0-easy", "Game2048-v0-easy", "Sudoku-v0-easy", "TowerofHanoi-v0-random"]
)
def test_the_global_generators_neither_matter_nor_change(name: str) -> None:
    environment = load(f"gem:game:{name}")
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    first = play_scripted(environment, 7, fixed("1 2"))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]
    random.seed(2)
    assert play_scripted(environment, 7, fixed("1 2")) == first


def test_seeds_are_different_games_and_one_object_carries_nothing_over() -> None:
    env = load("gem:game:Sudoku-v0-easy").make()
    first, _ = env.reset(seed=3)
    env.step("row 1 col 1 is 1")
    assert env.reset(seed=4)[0] != first
    assert env.reset(seed=3)[0] == first


def test_a_step_after_the_end_is_refused() -> None:
    env = load(GUESS).make()
    env.reset(seed=1)
    env.step("hello")
    with pytest.raises(RuntimeError, match="has ended"):
        env.step("1")


def test_importing_it_leaves_the_logging_of_the_process_alone() -> None:
    load(GUESS)
    assert not [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rg:chain_sum", "use reasoning_gym:chain_sum"),
        ("math:GSM8K", "from the same questions"),
        ("game:Wordle-v0-easy", "does not work here: LookupError: Resource"),
        ("game:FifteenPuzzle-v0-random", "does not work here: TypeError"),
        ("game:GuessTheNumber-v0-easy?max_number=ten", "not of type int"),
        ("game:GuessTheNumber-v0-easy?maximum=10", "no option is named 'maximum'"),
        ("game:GuessTheNumber-v0-easy?shots=1", "no oracle"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(f"gem:{name}")
    assert "\n" not in str(caught.value)


def test_an_unknown_game_names_the_nearest() -> None:
    with pytest.raises(UnknownError, match="did you mean game:GuessTheNumber-v0-easy"):
        load("gem:game:GuessTheNumber-easy")
