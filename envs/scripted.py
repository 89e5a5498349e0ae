"""Playing an environment without a policy: by its oracle, or by a fixed answer. For solved examples, checks and ceilings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from perdure.envs.environment import Environment, Exchange
from perdure.envs.guarded import NO_ORACLE, EnvironmentFault, Guarded, Outcome, opened

Answer = Callable[[str, Guarded], str]
"""What to do, from the observation and the environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of one episode."""

    exchanges: tuple[Exchange, ...]
    last: str
    """The observation after the last action, which no policy would see."""
    rewards: tuple[float, ...]
    total_reward: float
    success: bool
    score: float
    several: bool
    """Whether other seats had a turn too: all were answered alike."""


def play_scripted(environment: Environment, seed: int, answer: Answer) -> Played:
    """One episode. Raises `EnvironmentFault`."""
    env = opened(environment)
    exchanges: list[Exchange] = []
    rewards: list[float] = []
    outcome: Outcome | None = None
    several = False
    try:
        observation = env.reset(seed)
        while len(exchanges) < environment.turn_limit and (outcome is None or not outcome.ended):
            several |= env.seat > 0
            action = answer(observation, env)
            outcome = env.step(action)
            exchanges.append((observation, action))
            rewards.append(outcome.reward)
            observation = outcome.observation
    finally:
        env.close()
    total = sum(rewards)
    success, score = environment.judge(total, outcome.success if outcome else None)
    return Played(
        exchanges=tuple(exchanges),
        last=observation,
        rewards=tuple(rewards),
        total_reward=total,
        success=success,
        score=score,
        several=several,
    )


def by_oracle(observation: str, env: Guarded) -> str:
    """The right action, by the environment's own `oracle()`."""
    return env.oracle()


def fixed(text: str) -> Answer:
    """The same answer always."""
    return lambda observation, env: text


def has_oracle(environment: Environment) -> bool:
    """Whether the environment has an `oracle()`, wherever it runs; one that fails at once is there too."""
    env = opened(environment)
    try:
        env.reset(0)
        env.oracle()
    except EnvironmentFault as fault:
        return NO_ORACLE not in str(fault)
    finally:
        env.close()
    return True
