from __future__ import annotations

import random

import numpy as np
import pytest

from perdure.envs.guarded import GuardedEnv
from perdure.envs.registry import load_here as load
from perdure.envs.scripted import by_oracle, fixed, has_oracle, play_scripted
from perdure.envs.seeds import SPLITS
from perdure.memory.errors import InputError, UnknownError

TASKS = 200


@pytest.mark.parametrize(
    "name",
    [
        "chain_sum",
        "chain_sum?max_terms=2&max_digits=1",
        "family_relationships",
        "gsm_symbolic",
        "leg_counting",
    ],
)
def test_no_question_is_in_two_splits(name: str) -> None:
    environment = load(f"reasoning_gym:{name}")
    questions = {split: {environment.make().reset(seed=seed)[0] for seed in seeds[:TASKS]} for split, seeds in SPLITS.items()}
    assert all(len(of_split) > 4 for of_split in questions.values())
    assert not questions["train"] & questions["dev"]
    assert not (questions["train"] | questions["dev"]) & questions["probe"]


def test_neighbouring_seeds_pose_different_questions() -> None:
    environment = load("reasoning_gym:chain_sum")
    assert len({environment.make().reset(seed=seed)[0] for seed in range(TASKS)}) > TASKS * 0.95


def test_the_answer_of_the_dataset_is_its_oracle() -> None:
    environment = load("reasoning_gym:chain_sum?max_terms=2&shots=2")
    assert [play_scripted(environment, seed, by_oracle).score for seed in range(50)] == [1.0] * 50
    assert (environment.name, environment.turn_limit, len(environment.examples)) == ("reasoning_gym:chain_sum?max_terms=2&shots=2", 1, 2)


def test_a_dataset_without_answers_has_no_oracle() -> None:
    assert not has_oracle(load("reasoning_gym:rubiks_cube"))
    with pytest.raises(InputError, match="no oracle"):
        load("reasoning_gym:rubiks_cube?shots=1")


def test_room_for_an_answer_is_what_the_dataset_needs() -> None:
    assert load("reasoning_gym:chain_sum").max_tokens == 16
    assert load("reasoning_gym:caesar_cipher").max_tokens > 40
    assert load("reasoning_gym:caesar_cipher?max_tokens=7").max_tokens == 7


def test_an_answer_is_forgiven_its_wrapping_and_words_around_it_cost_almost_all() -> None:
    environment = load("reasoning_gym:chain_sum?max_terms=2")
    right = environment.make()
    right.reset(seed=3)
    answer = right.oracle()  # type: ignore[attr-defined]
    wrapped = [play_scripted(environment, 3, fixed(text)) for text in (f" {answer}\n", f"{answer}.", f"**{answer}**", f'"{answer}"')]
    assert [(played.success, played.total_reward) for played in wrapped] == [(True, 1.0)] * 4
    verbose = f"The answer is {answer}."
    played = play_scripted(environment, 3, fixed(verbose))
    assert (played.success, played.score) == (False, 0.0)
    assert played.total_reward == pytest.approx(len(answer) / (len(verbose) - 1))


def test_nonsense_that_the_scorer_fails_on_is_a_wrong_answer() -> None:
    env = load("reasoning_gym:prime_factorization").make()
    env.reset(seed=1)
    _, reward, terminated, _, info = env.step("hello")
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    assert info["scorer_error"].startswith("ValueError: ")


def test_a_step_after_the_end_is_refused() -> None:
    env = load("reasoning_gym:chain_sum").make()
    env.reset(seed=1)
    env.step("1")
    with pytest.raises(RuntimeError, match="has ended"):
        env.step("1")


@pytest.mark.parametrize("name", ["list_functions", "knights_knaves", "gsm_symbolic"])
def test_the_global_generators_neither_matter_nor_change(name: str) -> None:
    environment = load(f"reasoning_gym:{name}")
    played = []
    for noise in (1, 2):
        random.seed(noise)
        np.random.seed(noise)
        before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
        env = GuardedEnv(environment)
        played.append([(env.reset(seed), env.oracle()) for seed in range(40 * noise, 40 * noise + 40)])
        played.append([(env.reset(seed), env.oracle()) for seed in range(40, 80)])
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]
    assert played[0] == played[1] == played[3] != played[2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("game_of_life_halting", "pays 1 for any text"),
        ("pool_matrix", "cannot be split"),
        ("composite", "one by one"),
        ("chain_sum?max_term=2", "no option is named 'max_term'; did you mean max_terms"),
        ("chain_sum?max_terms=two", "not of type int"),
        ("chain_sum?seed=3", "no option is named 'seed'"),
        ("chain_sum?max_terms=1", "cannot be made: AssertionError: max_terms must be >= min_terms"),
        ("bitwise_arithmetic?difficulty=hard", "not of type int"),
        ("basic_arithmetic?operators=plus", r'option operators=\'plus\' is not of type list, as in operators=\["\+", "-", "\*", "/"\]'),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(f"reasoning_gym:{name}")
    assert "\n" not in str(caught.value)


def test_an_option_may_be_a_list() -> None:
    environment = load('reasoning_gym:basic_arithmetic?operators=["-"]')
    assert load(environment.name).name == environment.name
    asked = [environment.make().reset(seed=seed)[0] for seed in range(20)]
    assert all("-" in question and "*" not in question for question in asked)


def test_a_split_without_questions_says_so() -> None:
    environment = load("reasoning_gym:tower_of_hanoi?max_disks=3")
    with pytest.raises(InputError, match="has no dev question with these options"):
        environment.make().reset(seed=SPLITS["dev"][24])


def test_an_unknown_dataset_names_the_nearest() -> None:
    with pytest.raises(UnknownError, match="did you mean chain_sum"):
        load("reasoning_gym:chainsum")
