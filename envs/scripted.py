"""Playing an environment without a policy: with its oracle, or with a fixed answer. For solved examples, checks and ceilings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from perdure.envs.environment import Environment, Exchange, Guarded, StepOutcome
from perdure.envs.guarded import NO_ORACLE, EnvironmentFault, open_episode

Answer = Callable[[str, Guarded], str]
"""An action, given the observation and the environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedEpisode:
    """One episode, played without a policy."""

    exchanges: tuple[Exchange, ...]
    last: str
    """The observation after the last action, which no policy reads."""
    rewards: tuple[float, ...]
    total_reward: float
    success: bool
    score: float
    several: bool
    """Whether other seats had a turn too: all gave the same answers."""
    instructions: str | None = None
    """The system message of the task; None: that of the environment."""


def play_scripted(environment: Environment, seed: int, answer: Answer) -> ScriptedEpisode:
    """One episode. Raises `EnvironmentFault`."""
    env = open_episode(environment)
    exchanges: list[Exchange] = []
    rewards: list[float] = []
    outcome: StepOutcome | None = None
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
    return ScriptedEpisode(
        exchanges=tuple(exchanges),
        last=observation,
        rewards=tuple(rewards),
        total_reward=total,
        success=success,
        score=score,
        several=several,
        instructions=env.instructions,
    )


def by_oracle(observation: str, env: Guarded) -> str:
    """The right action, from the environment's own `oracle()`."""
    return env.oracle()


def fixed(text: str) -> Answer:
    """Always the same answer."""
    return lambda observation, env: text


def has_oracle(environment: Environment) -> bool:
    """Whether the environment has an `oracle()`, in any process. True also if it fails at once."""
    env = open_episode(environment)
    try:
        env.reset(0)
        env.oracle()
    except EnvironmentFault as fault:
        return NO_ORACLE not in str(fault)
    finally:
        env.close()
    return True
