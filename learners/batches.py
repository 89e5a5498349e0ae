"""From groups of episodes to what one update learns from, as plain functions.

A group is the episodes of one task under one sampler. Episodes that the environment spoilt are no data: they are left out, never scored 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from perdure.learners.losses import group_advantages
from perdure.memory.records import Episode

Group = Sequence[Episode]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One turn, and how strongly to do it again."""

    prompt_ids: tuple[int, ...]
    action_ids: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]
    advantage: float = 0.0
    """Weight of each token in the policy gradient."""
    imitation: float = 0.0
    """Weight of each token in the cross-entropy."""
    kl: float = 0.0
    """Weight of each token in the KL term to the serving version."""


def completed(groups: Iterable[Group]) -> list[list[Episode]]:
    """Groups without episodes that did not complete; a group of fewer than two is dropped, as nothing can be compared in it."""
    kept = [[episode for episode in group if episode.state == "completed" and episode.turns] for group in groups]
    return [group for group in kept if len(group) > 1]


def is_mixed(group: Group) -> bool:
    """Whether rewards differ: only then has the group a policy gradient."""
    return len({episode.total_reward for episode in group}) > 1


def contrast(groups: Iterable[Group], kl: float) -> list[Lesson]:
    """Mixed groups as policy-gradient lessons, A = R - mean of the group; groups of equal rewards are dropped before any forward pass."""
    lessons = []
    for group in groups:
        if is_mixed(group):
            advantages = group_advantages([episode.total_reward for episode in group])
            for episode, advantage in zip(group, advantages, strict=True):
                lessons += _lessons(episode, advantage=advantage, kl=kl)
    return lessons


def imitate(groups: Iterable[Group], weight: float, kl: float) -> list[Lesson]:
    """Every success as a cross-entropy lesson."""
    return [lesson for group in groups for episode in group if episode.success for lesson in _lessons(episode, imitation=weight, kl=kl)]


def replayed(groups: Iterable[Group], weight: float, kl: float) -> list[Lesson]:
    """Old environments played again by the current step: a policy gradient where rewards differ, cross-entropy where all succeeded.

    Where all failed there is nothing to reward, and only the KL term, if it has a weight, keeps them as they were.
    """
    groups = list(groups)
    equal = [group for group in groups if not is_mixed(group)]
    lessons = contrast(groups, kl) + imitate(equal, weight, kl)
    if kl:
        lessons += [lesson for group in equal for episode in group if not episode.success for lesson in _lessons(episode, kl=kl)]
    return lessons


def _lessons(episode: Episode, *, advantage: float = 0.0, imitation: float = 0.0, kl: float = 0.0) -> list[Lesson]:
    return [
        Lesson(
            prompt_ids=turn.prompt_ids,
            action_ids=turn.action_ids,
            sampler_logprobs=turn.logprobs,
            advantage=advantage,
            imitation=imitation,
            kl=kl,
        )
        for turn in episode.turns
    ]
