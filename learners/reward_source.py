"""Sources of rewards for learning: the environment, people or programs that judged episodes afterwards, or a reward model.

The environment's own rewards are never overwritten: a later reward is a row of its own with its source
(`memory/trajectories/rewards.py`). The option `rewards` chooses the source; episodes without a reward of it are left out.

Learners use scores: returns in [0, 1] by the range that the environment states, so that no environment weighs more than another because
its rewards are larger. Success that an environment states itself is what the gate judges, and is not used here: partial credit teaches.
Rewards that replace the environment's own are on its scale too, but may leave its range: a bonus on top of it still counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from math import isfinite
from numbers import Real
from typing import Protocol, cast

from perdure.learners.options import ENVIRONMENT
from perdure.memory.environments import Registration, list_environments
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.records import Episode, score_of_return
from perdure.memory.store import Store
from perdure.memory.trajectories.rewards import MOST_REWARD, rewards_from, sources

Rewarder = Callable[[Sequence[Episode]], list[Episode]]
"""Returns the same episodes with the rewards to learn from. Their `score` is the return by the environment's stated range, which is 0 and 1
at its ends."""

MODEL = "py:"


class RewardModel(Protocol):
    """Judges episodes. Its class is named `py:package.module:Class` and made without arguments."""

    def rewards(self, episodes: Sequence[Episode]) -> Sequence[float | None]:
        """A finite return for each episode, in order; None for one that it cannot judge, which is left out."""
        ...


def from_environment(store: Store) -> Rewarder:
    """The rewards that the environment gave during play."""
    known = _registrations(store)

    def scored(episodes: Sequence[Episode]) -> list[Episode]:
        return [replace(episode, score=score(episode)) for episode in episodes]

    def score(episode: Episode) -> float:
        environment = known[episode.environment]
        return score_of_return(episode.total_reward, environment.reward_low, environment.reward_high)

    return scored


def rewarder(store: Store, source: str, *, played_before: bool = True) -> Rewarder:
    """The rewarder of this source; `played_before` says whether the learner uses stored episodes, which can have stored rewards.

    Raises `InputError` if a reward model cannot be made, if the source has no rewards, or if it cannot have any.
    """
    if source == ENVIRONMENT:
        return from_environment(store)
    if source.startswith(MODEL):
        return by_model(store, reward_model(source))
    known = sources(store)
    if source not in known:
        there = f"there are rewards of {', '.join(known)}" if known else "there are no stored rewards"
        raise InputError(f"rewards={source}: this source has no rewards; {there}; see `perdure episode reward --help`")
    if not played_before:
        raise InputError(f"rewards={source}: stored rewards exist for stored episodes only; use them with trace-sft")
    return lambda episodes: _with(store, episodes, rewards_from(store, source, [episode.id for episode in episodes]))


def by_model(store: Store, model: RewardModel) -> Rewarder:
    """Rewards of a reward model, which judges only completed episodes."""

    def judged(episodes: Sequence[Episode]) -> list[Episode]:
        shown = [episode for episode in episodes if episode.state == "completed"]
        rewards = list(model.rewards(shown))
        if len(rewards) != len(shown):
            raise RuntimeFailure(
                f"the reward model gave {len(rewards)} rewards for {len(shown)} episodes: it must give one reward per episode"
            )
        found = {episode.id: reward for episode, reward in zip(shown, rewards, strict=True) if reward is not None}
        for number, reward in found.items():
            if not isinstance(reward, Real) or not isfinite(reward) or abs(reward) > MOST_REWARD:
                raise RuntimeFailure(
                    f"the reward model gave {reward!r} for episode {number}: a reward must be a finite number of at most "
                    f"{MOST_REWARD:g} in size, or None if it cannot judge the episode"
                )
        return _with(store, episodes, {number: float(reward) for number, reward in found.items()})

    return judged


def reward_model(name: str) -> RewardModel:
    """Make the reward model of this name. Raises `InputError` saying what is wrong."""
    module, colon, attribute = name.removeprefix(MODEL).partition(":")
    if not colon:
        raise InputError(f"rewards={name}: name a class as py:package.module:Class")
    try:
        made = getattr(import_module(module), attribute)()
    except Exception as error:
        raise InputError(f"rewards={name} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(getattr(made, "rewards", None)):
        raise InputError(f"rewards={name} has no method rewards(episodes)")
    return cast(RewardModel, made)


def _with(store: Store, episodes: Sequence[Episode], rewards: dict[int, float]) -> list[Episode]:
    """The episodes with these returns; success is a return of at least the threshold. An episode without a return counts as aborted."""
    known = _registrations(store)

    def judged(episode: Episode) -> Episode:
        if episode.id not in rewards:
            return replace(episode, state="aborted")
        total, environment = rewards[episode.id], known[episode.environment]
        score = (total - environment.reward_low) / (environment.reward_high - environment.reward_low)
        return replace(episode, total_reward=total, success=total >= environment.threshold, score=score)

    return [judged(episode) for episode in episodes]


def _registrations(store: Store) -> dict[str, Registration]:
    return {row.name: row for row in list_environments(store)}
