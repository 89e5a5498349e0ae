"""The overhead of environments: of the adapter and of the sandbox.

Both sides are played behind the same guard (`guarded.py`) with the same answers, alternately, so that a slower machine slows both. The bare
side is the package's own object with the minimum that makes it a text environment: TextArena's game with the global generator exchanged
around each call, which every correct use needs, and Gymnasium's toy with its own rendering.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import gymnasium

from perdure.envs.environment import AnyText, Environment, Guarded, Info, ResetResult, StepResult
from perdure.envs.guarded import open_episode
from perdure.envs.registry import load_here
from perdure.envs.sandbox.sandbox_loading import start_sandboxed
from perdure.envs.sandbox.sandbox_settings import Sandbox
from perdure.memory.json_value import JsonObject

GAMES = ("textarena:GuessTheNumber-v0", "gym:FrozenLake-v1?is_slippery=false")
STEPS = 2000
AT_ONCE = 64
PAIRS = 7
"""A pair takes half a second, in which other work of the machine may slow one side alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentCost:
    """Steps per second of one environment; medians."""

    environment: str
    bare: float
    ours: float
    ratio: float
    """Ours over bare, the median of pairs that were measured one after the other."""
    sandboxed: float
    at_once: float
    """Sandboxed, `AT_ONCE` episodes at once."""

    def as_json(self) -> JsonObject:
        return {
            "environment": self.environment,
            "bare_steps_per_second": self.bare,
            "steps_per_second": self.ours,
            "ratio": self.ratio,
            "sandboxed_steps_per_second": self.sandboxed,
            f"sandboxed_{AT_ONCE}_at_once": self.at_once,
        }


def bench_envs(say: Callable[[str], None], repeats: int) -> list[EnvironmentCost]:
    """Measure each of `GAMES`; the two sides in this process, whose ratio is the result, `PAIRS` times as often as the sandbox."""
    costs = []
    for name, bare in zip(GAMES, (BareTextArena, BareToy), strict=True):
        say(f"stepping {name}")
        ours = load_here(name)
        plain = replace(ours, make=bare)
        apart, host = start_sandboxed(name, Sandbox())
        try:
            rates = [[_rate(side, STEPS) for side in (plain, ours)] for _ in range(PAIRS * repeats)]
            alone = statistics.median(_rate(apart, STEPS) for _ in range(repeats))
            many = statistics.median(_rate_at_once(apart, 2 * STEPS) for _ in range(repeats))
        finally:
            host.close()
        costs.append(
            EnvironmentCost(
                environment=ours.name,
                bare=statistics.median(rate[0] for rate in rates),
                ours=statistics.median(rate[1] for rate in rates),
                ratio=statistics.median(rate[1] / rate[0] for rate in rates),
                sandboxed=alone,
                at_once=many,
            )
        )
    return costs


class BareTextArena(gymnasium.Env[str, str]):
    """A guessing game of TextArena without an adapter."""

    observation_space = action_space = AnyText()

    def __init__(self) -> None:
        import textarena

        self._state = random.Random(0).getstate()
        self._game = textarena.make("GuessTheNumber-v0")
        while isinstance(self._game, textarena.Wrapper):
            self._game = self._game.env

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> ResetResult:
        with self._own_generator():
            self._game.reset(num_players=1, seed=seed)
            return self._messages(), {}

    def step(self, action: str) -> StepResult:
        with self._own_generator():
            done, _ = self._game.step(action)
            if not done:
                return self._messages(), 0.0, False, False, {}
            rewards, _ = self._game.close()
            return self._messages(), float(rewards[0]), True, False, {}

    def _messages(self) -> str:
        return "\n".join(text for _, text, _ in self._game.get_observation()[1])

    @contextmanager
    def _own_generator(self) -> Iterator[None]:
        """Inside, the global generator continues from this game's state; afterwards the earlier state is restored."""
        others = random.getstate()
        random.setstate(self._state)
        try:
            yield
        finally:
            self._state = random.getstate()
            random.setstate(others)


class BareToy(gymnasium.Env[str, str]):
    """A toy of Gymnasium in its own rendering, with numbers as actions."""

    observation_space = action_space = AnyText()

    def __init__(self) -> None:
        self._toy: Any = gymnasium.make("FrozenLake-v1", is_slippery=False, render_mode="ansi", disable_env_checker=True)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> ResetResult:
        self._toy.reset(seed=seed)
        return self._toy.render(), {}

    def step(self, action: str) -> StepResult:
        _, reward, terminated, truncated, info = self._toy.step(int(action.strip("[]")) % 4)
        return self._toy.render(), float(reward), terminated, truncated, info


def _answers(environment: Environment) -> Callable[[int], str]:
    if environment.name.startswith("textarena:"):
        return lambda n: f"[{1 + n * 7 % 20}]"
    return lambda n: str((2, 1, 2, 1, 0, 3)[n % 6])


def _rate(environment: Environment, steps: int) -> float:
    """Steps per second, one episode after the other, making and reset included."""
    answer = _answers(environment)
    env = open_episode(environment)
    done, seed = 0, 0
    started_s = time.perf_counter()
    while done < steps:
        seed += 1
        env.reset(seed)
        ended, turn = False, 0
        while not ended and turn < environment.turn_limit:
            ended = env.step(answer(done)).ended
            done, turn = done + 1, turn + 1
        env.close()
    return done / (time.perf_counter() - started_s)


def _rate_at_once(environment: Environment, steps: int) -> float:
    """Steps per second of rounds in which `AT_ONCE` episodes make a step each, as in a generation batch."""
    answer = _answers(environment)
    envs: list[Guarded] = [open_episode(environment) for _ in range(AT_ONCE)]
    turns = [environment.turn_limit] * AT_ONCE
    done, seed = 0, 0
    rounds = [0.0]
    while done < steps:
        started_s = time.perf_counter()
        fresh = [n for n, turn in enumerate(turns) if turn >= environment.turn_limit]
        for n in fresh:
            seed += 1
            envs[n].begin(seed)
        for n in fresh:
            envs[n].first()
            turns[n] = 0
        for env in envs:
            env.send(answer(done))
        for n, env in enumerate(envs):
            turns[n] = environment.turn_limit if env.receive().ended else turns[n] + 1
        if done:  # the first round forks
            rounds.append(time.perf_counter() - started_s)
        done += AT_ONCE
    for env in envs:
        env.close()
    return (done - AT_ONCE) / sum(rounds)
