from __future__ import annotations

import random
import re

import numpy as np
import pytest

from perdure.envs.check.rules import check_rule
from perdure.envs.guarded import GuardedEnv
from perdure.envs.registry import load_here as load
from perdure.envs.scripted import by_oracle, fixed, play_scripted
from perdure.envs.sources.textarena.fixed_game import move
from perdure.memory.errors import InputError, UnknownError


def test_a_number_is_found_by_halving_and_only_news_is_shown() -> None:
    environment = load("textarena:GuessTheNumber-v0?max_number=10")
    env = GuardedEnv(environment)
    assert "between 1 and 10" in env.reset(5)
    low, high = 1, 10
    while True:
        guess = (low + high) // 2
        outcome = env.step(str(guess))
        if outcome.ended:
            break
        assert outcome.observation in ("The target number is higher.", "The target number is lower.")
        low, high = (guess + 1, high) if "higher" in outcome.observation else (low, guess - 1)
    assert (outcome.success, outcome.reward) == (True, 1.0)


def test_partial_credit_is_no_success() -> None:
    environment = load("textarena:GuessTheNumber-v0")
    played = [play_scripted(environment, seed, fixed("10")) for seed in range(40)]
    failed = [one for one in played if not one.success]
    assert len(failed) > 30
    assert all(one.score == 0.0 for one in failed)
    assert sum(one.total_reward for one in failed) / len(failed) > 0.5
    [finding] = [one for one in check_rule(environment, "has-a-floor") if "always" in one.message]
    assert re.fullmatch(r"always answering '\[\d+\]' is paid 0.[67]\d of the highest return, with . of 20 successes", finding.message)


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("5", "[5]"),
        ("5.", "[5]"),
        ("**5**", "[5]"),
        ("[ 5 ]", "[5]"),
        ("[5]", "[5]"),
        ("[A] [B]", "[A] [B]"),
        ("I [accept] this", "I [accept] this"),
    ],
)
def test_replies_reach_the_game_in_its_brackets(reply: str, read: str) -> None:
    assert move(reply) == read


@pytest.mark.parametrize("name", ["GuessTheNumber-v0", "Blackjack-v0", "ThreeCardMonte-v0", "Secretary-v0", "FrozenLake-v0-random"])
def test_the_global_generators_neither_matter_nor_change(name: str) -> None:
    environment = load(f"textarena:{name}")
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    first = play_scripted(environment, 7, fixed("1"))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]
    random.seed(2)
    assert play_scripted(environment, 7, fixed("1")) == first


def test_a_second_episode_on_one_object_carries_nothing_over() -> None:
    env = load("textarena:FrozenLake-v0").make()
    first, _ = env.reset(seed=3)
    env.step("down")
    env.reset(seed=4)
    assert env.reset(seed=3)[0] == first


def test_a_step_after_the_end_is_refused() -> None:
    env = load("textarena:ThreeCardMonte-v0?steps=1").make()
    env.reset(seed=1)
    assert env.step("0")[2]
    with pytest.raises(RuntimeError, match="has ended"):
        env.step("1")


@pytest.mark.parametrize("name", ["Countdown", "Cryptarithm", "Slitherlink", "ThreeCardMonte"])
def test_reward_and_reason_that_a_game_has_swapped_are_put_right(name: str) -> None:
    env = GuardedEnv(load(f"textarena:{name}-v0"))
    env.reset(1)
    first = env.step("hello")
    assert not first.ended
    assert re.search(r"Reason: (Bad action|Invalid action)", first.observation)
    last = env.step("hello")
    assert last.ended
    assert isinstance(last.reward, float)
    assert last.success is False
    assert "action" in (last.invalid or "")


def test_its_forms_play_like_the_game() -> None:
    base, train = (play_scripted(load(f"textarena:GuessTheNumber-v0{form}"), 3, fixed("4")) for form in ("", "-train"))
    assert base == train


@pytest.mark.parametrize(
    "name",
    [
        "GuessTheNumber-v0-hardcore",
        "ThreeCardMonte-v0?num_cups=4",
        "TowerOfHanoi-v0-medium",
        "FrozenLake-v0-hardcore",
        "FrozenLake-v0-random",
        "LightsOut-v0",
        "Mastermind-v0",
        "Mastermind-v0-hard?duplicate_numbers=true",
    ],
)
def test_oracles_solve_every_task(name: str) -> None:
    environment = load(f"textarena:{name}")
    played = [play_scripted(environment, seed, by_oracle) for seed in range(50)]
    assert [(one.success, one.rewards[-1]) for one in played] == [(True, 1.0)] * 50


def test_an_oracle_goes_on_from_wherever_the_player_is() -> None:
    env = GuardedEnv(load("textarena:TowerOfHanoi-v0"))
    env.reset(0)
    for action in ("A B", "A C", "B A"):
        env.step(action)
    outcomes = [env.step(env.oracle())]
    while not outcomes[-1].ended:
        outcomes.append(env.step(env.oracle()))
    assert (outcomes[-1].success, len(outcomes)) == (True, 6)


def test_the_best_arm_of_the_bandit_is_paid_nothing_and_the_worst_is_paid() -> None:
    environment = load("textarena:Bandit-v0")
    best = play_scripted(environment, 3, by_oracle)
    assert (best.success, best.total_reward) == (False, 0.0)
    others = [play_scripted(environment, 3, fixed(f"[{arm}]")).total_reward for arm in ("red", "blue", "green", "yellow", "purple")]
    assert max(others) > 0.1
    assert "always giving one wrong answer is paid better than the oracle" in check_rule(environment, "oracle-succeeds")[-1].message


def test_games_with_an_oracle_have_shots_and_the_others_say_why_not() -> None:
    hanoi = load("textarena:TowerOfHanoi-v0?num_disks=2&shots=1")
    assert [action for _, action in hanoi.examples] == ["[A B]", "[A C]", "[B C]"]
    for name in ("GuessTheNumber", "ThreeCardMonte", "FrozenLake", "LightsOut", "Mastermind"):
        assert load(f"textarena:{name}-v0?shots=1").examples
    with pytest.raises(InputError, match="has no oracle"):
        load("textarena:Secretary-v0?shots=1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("TicTacToe-v0?opponent=nobody", "is not random, serving"),
        ("TicTacToe-v0?opponent=py:tests.envs:nobody", "cannot be imported"),
        ("TicTacToe-v0?seat=2", "neither any nor one of 0 to 1"),
        ("TicTacToe-v0?players=3", "does not start with 3 players"),
        ("Klondike-v0", "does not work here: SyntaxError"),
        ("GuessWho-v0", "OPENROUTER_API_KEY"),
        ("GuessTheNumber-v0?max_number=ten", "not of type int"),
        ("GuessTheNumber-v0?maximum=10", "no option is named 'maximum'"),
        ("Nim-v0?piles=3", "option piles=3 is not of type list"),
        ("Sokoban-v0?dim_room=hello", "option dim_room=hello is not of type list"),
        ("Sokoban-v0?dim_room=5", "option dim_room=5 is not of type list"),
    ],
)
def test_a_game_that_cannot_be_learned_from_is_refused_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(f"textarena:{name}")
    assert "\n" not in str(caught.value)


def test_an_option_whose_default_is_a_tuple_is_written_as_a_list() -> None:
    assert load("textarena:Sokoban-v0?dim_room=[6,6]").name == "textarena:Sokoban-v0"
    larger = load("textarena:Sokoban-v0?dim_room=[7,8]")
    assert larger.name == "textarena:Sokoban-v0?dim_room=[7,+8]"
    assert GuardedEnv(larger).reset(1) != GuardedEnv(load("textarena:Sokoban-v0")).reset(1)


def test_an_unknown_game_names_the_nearest() -> None:
    with pytest.raises(UnknownError, match="did you mean GuessTheNumber-v0"):
        load("textarena:GuesTheNumber-v0")
