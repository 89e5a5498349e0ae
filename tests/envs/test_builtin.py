from __future__ import annotations

from collections import Counter
from random import Random

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from perdure.envs.builtin import BUILTINS
from perdure.envs.builtin.game import OneTurn
from perdure.envs.check.rules import RULES, check_rule
from perdure.envs.guarded import GuardedEnv
from perdure.envs.listings import builtin_names
from perdure.envs.registry import load
from perdure.envs.scripted import by_oracle, fixed, play_scripted
from perdure.envs.seeds import SPLITS, split_by_content
from perdure.memory.errors import InputError


def question_of(name: str, seed: int = 0) -> tuple[str, str]:
    """The first observation of a task and its right answer."""
    env = load(name).make()
    observation, _ = env.reset(seed=seed)
    return observation, env.unwrapped.oracle()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", builtin_names())
def test_a_builtin_environment_breaks_no_rule(name: str) -> None:
    findings = [finding for rule in RULES if rule != "keeps-to-itself" for finding in check_rule(load(name), rule)]
    assert [finding for finding in findings if finding.level == "error"] == []


@pytest.mark.parametrize("name", builtin_names())
def test_a_builtin_environment_passes_gymnasiums_own_check(name: str) -> None:
    gymnasium.register("PerdureUnderTest-v0", entry_point=lambda **options: BUILTINS[name.removeprefix("perdure:")](**options))
    try:
        check_env(gymnasium.make("PerdureUnderTest-v0").unwrapped, skip_render_check=True)
    finally:
        gymnasium.registry.pop("PerdureUnderTest-v0")


@pytest.mark.parametrize("name", builtin_names())
def test_every_split_draws_only_its_own_content(name: str) -> None:
    env = BUILTINS[name.removeprefix("perdure:")]()
    for split, seeds in SPLITS.items():
        for seed in seeds[:50]:
            observation, _ = env.reset(seed=seed)
            assert split_by_content(env.content(observation)) == split


@pytest.mark.parametrize("name", builtin_names())
def test_answers_and_observations_are_short(name: str) -> None:
    environment = load(name)
    for seed in range(50):
        for observation, action in play_scripted(environment, seed, by_oracle).exchanges:
            assert len(observation) <= 90
            assert len(action.split()) <= 3
            assert len(action) <= 2.5 * environment.max_tokens


@pytest.mark.parametrize("name", builtin_names())
def test_no_constant_answer_does_well(name: str) -> None:
    environment = load(name)
    played = [play_scripted(environment, seed, by_oracle) for seed in range(200)]
    commonest = Counter(exchanges[-1][1] for exchanges in (one.exchanges for one in played)).most_common(1)[0][0]
    successes = sum(play_scripted(environment, seed, fixed(commonest)).success for seed in range(200))
    assert successes <= 125, f"{commonest!r} succeeds in {successes} of 200"


@pytest.mark.parametrize(
    ("name", "correct"),
    [
        ("perdure:largest-number?numbers=5", lambda text: max(map(int, text.split()))),
        ("perdure:smallest-number?digits=3", lambda text: min(map(int, text.split()))),
        ("perdure:add?terms=3", lambda text: sum(map(int, text.split(" + ")))),
        ("perdure:compare", lambda text: "<" if int(text.split(" ? ")[0]) < int(text.split(" ? ")[1]) else ">"),
        ("perdure:even-odd", lambda text: "even" if text[-1] in "02468" else "odd"),
        ("perdure:sort-numbers?digits=2", lambda text: " ".join(sorted(text.split()))),
        ("perdure:next-number", lambda text: 2 * int(text.split()[-1]) - int(text.split()[-2])),
        ("perdure:first-word", lambda text: text.split()[0]),
        ("perdure:last-word", lambda text: text.split()[-1]),
        ("perdure:kth-word", lambda text: text.split()[int(text[0])]),
        ("perdure:swap-words", lambda text: " ".join(text.split()[::-1])),
        ("perdure:copy-word?words=3", lambda text: text),
        ("perdure:count-words", lambda text: len(text.split())),
        ("perdure:membership", lambda text: "yes" if text.split(": ")[0] in text.split(": ")[1].split() else "no"),
        ("perdure:initials", lambda text: " ".join(word[0] for word in text.split())),
    ],
)
def test_the_right_answer_is_right(name: str, correct: object) -> None:
    assert callable(correct)
    for seed in range(50):
        observation, answer = question_of(name, seed)
        assert answer == str(correct(observation))


@pytest.mark.parametrize("option", ["numbers=1", "numbers=10", "digits=0"])
def test_an_option_out_of_bounds_is_refused(option: str) -> None:
    key, _, value = option.partition("=")
    with pytest.raises(InputError, match=f"option {key}={value}: must be between"):
        load(f"perdure:largest-number?{option}")


def test_options_make_the_question_easier_or_harder() -> None:
    assert len(question_of("perdure:largest-number")[0].split()) == 4
    assert len(question_of("perdure:largest-number?numbers=2&digits=1")[0]) == 3


def test_a_step_after_the_end_is_refused() -> None:
    env = load("perdure:add").make()
    env.reset(seed=1)
    assert env.step("no")[2]
    with pytest.raises(RuntimeError, match="has ended"):
        env.step("no")


def replies(name: str, seed: int, actions: list[str]) -> tuple[GuardedEnv, list[str]]:
    """An environment after some actions, and all its observations."""
    env = GuardedEnv(load(name))
    observations = [env.reset(seed)]
    observations += [env.step(action).observation for action in actions]
    return env, observations


def test_guess_number_says_higher_and_lower() -> None:
    low, high = map(int, load("perdure:guess-number").make().reset(seed=3)[0].split(" to "))
    env, observations = replies("perdure:guess-number", 3, [str(low - 1), str(high + 1), "what?"])
    assert observations[1:] == ["higher", "lower", f"only a number, {low} to {high}"]
    assert env.step(env.oracle()).ended  # the fourth turn is the last


def test_grid_walk_forgives_as_many_slips_as_it_says() -> None:
    assert replies("perdure:grid-walk", 1, ["sing"])[1][-1] == "lost"
    env, observations = replies("perdure:grid-walk?slips=1", 1, ["sing"])
    assert observations[1] == observations[0]
    assert env.step("sing").observation == "lost"


def test_door_code_asks_for_one_of_the_codes_it_gave() -> None:
    env, observations = replies("perdure:door-code?waits=2", 5, ["ok", "ok", "ok"])
    assert observations[1:3] == ["wait", "wait"]
    door = observations[3].removesuffix("?")
    assert env.step(dict(part.split() for part in observations[0].split(", "))[door]).success


def test_spell_word_ends_at_the_first_wrong_letter() -> None:
    word, _ = load("perdure:spell-word").make().reset(seed=2)
    env, observations = replies("perdure:spell-word", 2, [word[0]])
    assert observations == [word, "next"]
    outcome = env.step("?")
    assert outcome.ended
    assert not outcome.success


def test_too_few_tasks_for_a_split_is_said() -> None:
    class Tiny(OneTurn):
        def question(self, rng: Random) -> tuple[str, str]:
            return "1 + 1", "2"

    env = Tiny()
    split = split_by_content("1 + 1")
    other = next(name for name in SPLITS if name != split)
    env.reset(seed=SPLITS[split][0])
    with pytest.raises(InputError, match=f"no {other} task"):
        env.reset(seed=SPLITS[other][0])


def test_a_game_ends_at_its_turn_limit() -> None:
    environment = load("perdure:guess-number?turns=2")
    assert environment.turn_limit == 2
    assert len(play_scripted(environment, 8, fixed("0")).exchanges) == 2
