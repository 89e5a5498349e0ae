from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from perdure.envs.guarded import EnvironmentFault, GuardedEnv
from perdure.envs.registry import load_here as load
from perdure.envs.scripted import fixed, play_scripted
from perdure.envs.seeds import SPLITS
from perdure.memory.errors import InputError, UnknownError

pytestmark = pytest.mark.processes

DOUBLES = """
import verifiers.v1 as vf

__all__ = ["Doubles"]


class Config(vf.TasksetConfig):
    rows: int = 200
    bonus: float = 0.0


class Data(vf.TaskData):
    answer: str


class Double(vf.Task[Data, vf.State, vf.TaskConfig]):
    @vf.reward
    async def right(self, trace) -> float:
        if trace.last_reply == "crash":
            raise ValueError("the scorer fell over")
        return float(trace.last_reply == self.data.answer)

    @vf.reward(weight=0.25)
    async def short(self, trace) -> float:
        return float(len(trace.last_reply) < 4)


class Doubles(vf.Taskset[Double, Config]):
    def load(self):
        for n in range(self.config.rows):
            data = Data(prompt=f"twice {n}?", system_prompt="Only the number.", answer=str(2 * n))
            yield Double(data, self.config.task)
"""

GUESSES = """
import itertools
import random

import verifiers.v1 as vf

__all__ = ["Guesses", "GuessEnv"]


class Data(vf.TaskData):
    number: int


class Guess(vf.Task[Data, vf.State, vf.TaskConfig]):
    pass


class Guesses(vf.Taskset[Guess, vf.TasksetConfig]):
    INFINITE = True

    def load(self):
        for n in itertools.count():
            yield Guess(Data(prompt=f"game {n}: which number below 8?", number=n % 8), self.config.task)


class GuessConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig(max_turns=4)


class GuessEnv(vf.Env[GuessConfig]):
    async def run(self, task, agents):
        won = False
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated:
                guess = int(segment.last_reply)
                won = guess == task.data.number
                if won:
                    break
                way = "higher" if guess < task.data.number else "lower"
                segment = await interaction.turn(f"{way} ({random.randrange(10**6)})")
        interaction.trace.record_reward("won", float(won), 1.0)
"""

TWO = """
import verifiers.v1 as vf

__all__ = ["Lone", "Pair"]


class Lone(vf.Taskset[vf.Task, vf.TasksetConfig]):
    def load(self):
        yield vf.Task(vf.TaskData(prompt="hello"))


class PairConfig(vf.EnvConfig):
    one: vf.AgentConfig = vf.AgentConfig()
    other: vf.AgentConfig = vf.AgentConfig()


class Pair(vf.Env[PairConfig]):
    async def run(self, task, agents):
        await agents.one.run(task)
"""


@pytest.fixture(autouse=True)
def tasksets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder: Path = tmp_path_factory.mktemp("tasksets")
    for name, text in (("my_doubles", DOUBLES), ("my_guesses", GUESSES), ("my_pair", TWO)):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)


def asked(observation: str) -> int:
    return int(observation.removeprefix("Only the number.\n\ntwice ").removesuffix("?"))


def test_one_turn_is_a_question_an_answer_and_the_weighted_reward() -> None:
    environment = load("verifiers:my_doubles")
    assert (environment.name, environment.turn_limit) == ("verifiers:my_doubles", 1)
    env = GuardedEnv(environment)
    number = asked(env.reset(3))
    right = env.step(str(2 * number))
    assert (right.terminated, right.reward) == (True, 1.25)
    env.close()
    assert play_scripted(environment, 3, fixed("none")).total_reward == 0.0


def test_many_turns_go_on_until_the_environment_ends_them() -> None:
    environment = load("verifiers:my_guesses")
    assert environment.turn_limit == 4
    for seed in range(4):
        env = GuardedEnv(environment)
        assert env.reset(seed).endswith("which number below 8?")
        low, high = 0, 7
        while True:
            guess = (low + high) // 2
            outcome = env.step(str(guess))
            if outcome.ended:
                break
            low, high = (guess + 1, high) if outcome.observation.startswith("higher") else (low, guess - 1)
        assert (outcome.reward, outcome.terminated) == (1.0, True)
        env.close()


def test_a_limit_of_turns_ends_it_with_the_reward_that_it_has() -> None:
    played = play_scripted(load("verifiers:my_guesses"), 0, fixed("9"))
    assert (len(played.exchanges), played.total_reward, played.success) == (4, 0.0, False)


def test_a_seed_is_one_task_whatever_others_draw() -> None:
    environment = load("verifiers:my_guesses")
    random.seed(1)
    before = random.getstate()
    first = play_scripted(environment, 5, fixed("9"))
    assert random.getstate() == before
    random.seed(2)
    assert play_scripted(environment, 5, fixed("9")) == first
    assert len({play_scripted(environment, seed, fixed("9")).exchanges for seed in range(4)}) == 4


def test_no_task_is_in_two_splits() -> None:
    environment = load("verifiers:my_doubles")
    questions: dict[str, set[str]] = {}
    for split, seeds in SPLITS.items():
        env = environment.make()
        questions[split] = {env.reset(seed=seed)[0] for seed in seeds[:15]}
        env.close()
    assert all(len(of_split) > 5 for of_split in questions.values())
    assert not questions["train"] & questions["probe"]
    assert not questions["dev"] & (questions["train"] | questions["probe"])


def test_options_are_those_of_the_taskset() -> None:
    assert load("verifiers:my_doubles?rows=150").name == "verifiers:my_doubles?rows=150"
    assert load("verifiers:my_doubles?rows=200").name == "verifiers:my_doubles"
    with pytest.raises(InputError, match="no option is named 'row'; did you mean rows"):
        load("verifiers:my_doubles?row=150")
    with pytest.raises(InputError, match="not of type int"):
        load("verifiers:my_doubles?rows=many")


def test_a_rollout_that_fails_is_a_fault_of_the_environment() -> None:
    env = GuardedEnv(load("verifiers:my_doubles"))
    env.reset(1)
    with pytest.raises(EnvironmentFault, match="the scorer fell over"):
        env.step("crash")
    env.close()
    env = GuardedEnv(load("verifiers:my_guesses"))
    env.reset(1)
    with pytest.raises(EnvironmentFault, match="invalid literal for int"):
        env.step("seven")
    env.close()


def test_an_episode_that_is_left_leaves_no_thread() -> None:
    env = load("verifiers:my_guesses").make()
    for seed in range(3):
        env.reset(seed=seed)
        assert [thread.name for thread in threading.enumerate()].count("verifiers") == 1
    env.close()
    assert "verifiers" not in [thread.name for thread in threading.enumerate()]


def test_what_cannot_be_played_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"has several agents \(one, other\)"):
        load("verifiers:my_pair")
    with pytest.raises(UnknownError, match="no taskset of that name can be imported"):
        load("verifiers:no-such-taskset")
    with pytest.raises(InputError, match="does not work here: TypeError: taskset module 'string' exports no Taskset"):
        load("verifiers:string")
    with pytest.raises(InputError, match="no oracle"):
        load("verifiers:my_doubles?shots=1")
