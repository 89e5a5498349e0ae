"""Where the rewards come from that a learner learns from: the environment, somebody who gave them afterwards, or a reward model.

What an environment said is never overwritten: a person's or program's reward is a row of its own with its source
(`memory/replay/rewards.py`), and a learner is told which source to take. An episode that the source says nothing of is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from math import isfinite
from numbers import Real
from typing import Protocol, cast

from perdure.learners.options import ENVIRONMENT
from perdure.memory.environments import list_environments
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.records import Episode
from perdure.memory.replay.rewards import rewards_from, sources
from perdure.memory.store import Store

Rewarder = Callable[[Sequence[Episode]], list[Episode]]
"""From episodes as they were played to the same ones with the rewards to learn from."""

MODEL = "py:"


class RewardModel(Protocol):
    """Judges episodes. Its class is named `py:package.module:Class` and made without arguments."""

    def rewards(self, episodes: Sequence[Episode]) -> Sequence[float]:
        """A finite return for each episode, in order."""
        ...


def from_environment(episodes: Sequence[Episode]) -> list[Episode]:
    """As they were rewarded while they were played."""
    return list(episodes)


def rewarder(store: Store, source: str, *, played_before: bool = True) -> Rewarder:
    """Where `source` says that rewards come from; `played_before` says whether the learner's episodes are such as somebody can have judged.

    Raises `InputError` for a reward model that cannot be made, for a source that has given no rewards, and for one that cannot have given
    any.
    """
    if source == ENVIRONMENT:
        return from_environment
    if source.startswith(MODEL):
        return by_model(store, reward_model(source))
    known = sources(store)
    if source not in known:
        there = f"there is {', '.join(known)}" if known else "nobody has yet"
        raise InputError(f"rewards={source}: nobody of that name has given any; {there}; see `perdure episode reward --help`")
    if not played_before:
        raise InputError(
            f"rewards={source}: nobody can have judged episodes that are yet to be played; only trace-sft learns from stored rewards"
        )
    return lambda episodes: _with(store, episodes, rewards_from(store, source, [episode.id for episode in episodes]))


def by_model(store: Store, model: RewardModel) -> Rewarder:
    """As a reward model judges; only episodes that were completed are shown to it."""

    def judged(episodes: Sequence[Episode]) -> list[Episode]:
        shown = [episode for episode in episodes if episode.state == "completed"]
        rewards = list(model.rewards(shown))
        if len(rewards) != len(shown):
            raise RuntimeFailure(f"the reward model gave {len(rewards)} rewards for {len(shown)} episodes: it must give one for each")
        for episode, reward in zip(shown, rewards, strict=True):
            if not isinstance(reward, Real) or not isfinite(reward):
                raise RuntimeFailure(f"the reward model gave {reward!r} for episode {episode.id}: a reward is a finite number")
        return _with(store, episodes, {episode.id: float(reward) for episode, reward in zip(shown, rewards, strict=True)})

    return judged


def reward_model(name: str) -> RewardModel:
    """Make the model of this name. Raises `InputError` naming what is wrong."""
    module, colon, attribute = name.removeprefix(MODEL).partition(":")
    if not colon:
        raise InputError(f"rewards={name}: name a class as py:package.module:Class")
    try:
        made = getattr(import_module(module), attribute)()
    except Exception as error:
        raise InputError(f"rewards={name} cannot be made: {type(error).__name__}: {error}") from error
    if not callable(getattr(made, "rewards", None)):
        raise InputError(f"rewards={name} has no method rewards(episodes)")
    return cast(RewardModel, made)


def _with(store: Store, episodes: Sequence[Episode], rewards: dict[int, float]) -> list[Episode]:
    """These episodes with these returns. A completed one without a return is aborted as data; success is a return of the threshold."""
    needed = {row.name: row.threshold for row in list_environments(store)}
    return [
        replace(episode, total_reward=rewards[episode.id], success=rewards[episode.id] >= needed[episode.environment])
        if episode.id in rewards
        else replace(episode, state="aborted")
        for episode in episodes
    ]
