from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from tests.envs.opponents import lowest

from perdure.envs.environment import Environment
from perdure.envs.guarded import EnvironmentFault, GuardedEnv
from perdure.envs.registry import load_here as load
from perdure.envs.scripted import Answer, ScriptedEpisode, fixed, play_scripted
from perdure.envs.sources.textarena.scripted_opponents import random_mover

PLAYABLE = (
    "Briscola-v0",
    "ColonelBlotto-v0-small",
    "ConnectFour-v0",
    "Crusade-v0",
    "GameOfPureStrategy-v0",
    "HighSociety-v0",
    "IndianPoker-v0-short",
    "IteratedMatchingPennies-v0",
    "IteratedPrisonersDilemma-v0",
    "IteratedRockPaperScissors-v0",
    "IteratedTwoThirdsAverage-v0",
    "KuhnPoker-v0",
    "MarketEntryGame-v0",
    "MemoryGame-v0",
    "Nim-v0",
    "Othello-v0-tiny",
    "PigDice-v0-short",
    "SimpleTak-v0",
    "Snake-v0",
    "Surround-v0",
    "ThreePlayerGOPS-v0",
    "ThreePlayerTicTacToe-v0",
    "TicTacToe-v0",
    "TruthAndDeception-v0",
    "WildTicTacToe-v0",
)
"""Games that the random script plays to the end without an invalid move."""


def mover(id_: str, seed: int) -> Answer:
    """The policy's seat played at random too."""
    script, rng, texts = random_mover(id_), random.Random(seed), []

    def answer(observation: str, env: GuardedEnv) -> str:
        texts.append(observation)
        return script("\n\n".join(texts), rng)

    return answer


def play(environment: Environment, id_: str, seed: int) -> ScriptedEpisode:
    return play_scripted(environment, seed, mover(id_, seed))


@pytest.mark.parametrize("id_", PLAYABLE)
def test_the_random_script_plays_to_the_end_and_the_same_again(id_: str) -> None:
    environment = load(f"textarena:{id_}?turn_limit=200")
    games = [play(environment, id_, seed) for seed in range(6)]
    assert all(-1 <= one.total_reward <= 1 and one.success == (one.total_reward >= 1) for one in games)
    assert len({one.total_reward for one in games}) > 1
    random.seed(5)
    assert [play(environment, id_, seed) for seed in range(6)] == games


def test_the_docs_name_the_games_that_the_random_script_can_play() -> None:
    text = (Path(__file__).parents[4] / "docs" / "sources.md").read_text(encoding="utf-8")
    [listed] = re.findall(r"`opponent=random` plays (.*?)\.\n", text, re.DOTALL)
    assert re.findall(r"`(\w+)`", listed) == [id_.partition("-v")[0] for id_ in PLAYABLE]


@pytest.mark.parametrize("seat", [0, 1])
def test_the_policy_has_the_seat_that_was_asked_for_and_sees_the_moves_of_the_other(seat: int) -> None:
    environment = load(f"textarena:TicTacToe-v0?opponent=py:tests.envs.opponents:listening&seat={seat}")
    env = GuardedEnv(environment)
    observation = env.reset(3)
    assert f"You are Player {seat} in Tic Tac Toe" in observation
    assert ("Player 0: [0]" in observation) == (seat == 1)
    outcome = env.step("4")
    assert outcome.observation.count("Current Board:") == 2
    assert f"Player {1 - seat}: [{seat}]" in outcome.observation
    assert "Player 4" not in outcome.observation
    assert f"Player {seat}: " not in outcome.observation
    assert "You are Player" not in outcome.observation
    while not outcome.ended:
        outcome = env.step(lowest(outcome.observation, random.Random()))
    assert outcome.success == (outcome.reward == 1)
    assert sum(outcome.rewards) == 0
    assert outcome.rewards[0] == outcome.reward


def test_any_seat_is_drawn_by_the_seed() -> None:
    environment = load("textarena:TicTacToe-v0")
    first = [play(environment, "TicTacToe-v0", seed).exchanges[0][0] for seed in range(20)]
    assert {text[:16] for text in first} == {"You are Player 0", "You are Player 1"}


def test_a_policy_that_makes_invalid_moves_hears_why_and_then_loses() -> None:
    env = GuardedEnv(load("textarena:TicTacToe-v0?seat=0"))
    env.reset(1)
    first = env.step("9")
    assert not first.ended
    assert first.invalid
    assert first.invalid in first.observation
    last = env.step("hello")
    assert (last.ended, last.reward, last.success) == (True, -1.0, False)
    assert last.invalid


def test_a_valid_move_is_not_called_invalid_after_one_that_was() -> None:
    env = GuardedEnv(load("textarena:TicTacToe-v0?seat=0"))
    env.reset(1)
    assert env.step("nothing").invalid
    assert env.step("4").invalid is None


def test_a_game_that_the_script_loses_by_invalid_moves_is_an_error_of_the_environment() -> None:
    env = GuardedEnv(load("textarena:TicTacToe-v0?seat=0&opponent=py:tests.envs.opponents:silent"))
    env.reset(1)
    with pytest.raises(EnvironmentFault, match="two invalid moves in a row, so choose another opponent"):
        env.step("4")


def test_more_players_may_be_asked_for_if_the_game_takes_them() -> None:
    environment = load("textarena:Snake-v0?players=4&seat=3")
    assert environment.name == "textarena:Snake-v0?players=4&seat=3"
    played = play(environment, "Snake-v0", 2)
    assert "You control snake 3" in played.exchanges[0][0]


def test_a_game_for_one_says_why_a_move_was_invalid() -> None:
    env = GuardedEnv(load("textarena:GuessTheNumber-v0"))
    env.reset(1)
    outcome = env.step("77")
    assert outcome.invalid == "Invalid move. Player 0 guessed a number outside the range specified."
    assert env.step("7").invalid is None


def test_with_versions_at_the_table_each_seat_is_told_of_its_own_game() -> None:
    env = GuardedEnv(load("textarena:KuhnPoker-v0?opponent=serving&seat=0"))
    seen: dict[int, list[str]] = {0: [], 1: []}
    observation = env.reset(4)
    while True:
        seen[env.seat].append(observation)
        outcome = env.step(random_mover("KuhnPoker-v0")(observation, random.Random(7)))
        if outcome.ended:
            break
        observation = outcome.observation
    assert len(outcome.rewards) == 2
    for seat, texts in seen.items():
        whole = "\n".join(texts)
        assert whole.count(f"You are Player {seat} in a") == 1
        assert f"You are Player {1 - seat} " not in whole
        assert f"Player {seat}: [" not in whole
    mine, others = (dict(re.findall(r"round (\d) out of 3 rounds. Your card is: '(\w)'", "\n".join(texts))) for texts in seen.values())
    assert mine.keys() == others.keys() == {"1", "2", "3"}
    assert all(mine[n] != others[n] for n in mine)


def test_the_seat_that_is_judged_is_number_0_wherever_it_sits() -> None:
    env = GuardedEnv(load("textarena:TicTacToe-v0?opponent=v3&seat=1"))
    assert "You are Player 0" in env.reset(1)
    assert env.seat == 1
    outcome = env.step("4")
    assert (outcome.seat, outcome.reward) == (0, 0.0)
    assert "You are Player 1" in outcome.observation


def test_a_fixed_answer_does_not_win_for_sure() -> None:
    environment = load("textarena:TicTacToe-v0")
    assert not all(play_scripted(environment, seed, fixed("4")).success for seed in range(10))
