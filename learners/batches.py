"""Lessons of one update from groups of episodes, as plain functions.

A group is the episodes of one task under one sampler. Episodes that did not complete are left out, never scored 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from perdure.envs.policy import Ids
from perdure.learners.losses import VARIANTS, centred
from perdure.learners.options import LearnOptions
from perdure.memory.records import Episode

Group = Sequence[Episode]
Turns = tuple[tuple[Ids, Ids], ...]
"""Prompt and answer of each turn, as token ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One episode, and its weights in the loss."""

    episode: int | None
    """The id of the stored episode; None if it was imported or is a demonstration."""
    turns: Turns
    sampler_logprobs: tuple[float, ...] | None
    """Of all action tokens, laid end to end; None if no policy of this home sampled them."""
    advantage: float = 0.0
    """Weight of each token in the policy gradient."""
    imitation: float = 0.0
    """Weight of each token in the cross-entropy."""
    kl: float = 0.0
    """Weight of each token in the KL term to the serving version."""

    @property
    def tokens(self) -> int:
        """Action tokens of all turns."""
        return sum(len(action) for _, action in self.turns)

    @property
    def sequences(self) -> list[Ids]:
        """Each turn with its prompt; for played episodes a prompt begins with the conversation so far."""
        return sequences_of(self.turns)


def completed(groups: Iterable[Group]) -> list[list[Episode]]:
    """The completed episodes of each group; a group with fewer than two is dropped, as it has nothing to compare."""
    complete = [[episode for episode in group if episode.state == "completed" and episode.turns] for group in groups]
    return [group for group in complete if len(group) > 1]


def is_mixed(group: Group) -> bool:
    """Whether rewards differ; if not, the group has no policy gradient."""
    return len({episode.total_reward for episode in group}) > 1


def policy_gradient_lessons(
    groups: Iterable[Group], kl: float, advantages: Callable[[Sequence[float]], list[float]] = centred
) -> list[Lesson]:
    """Policy-gradient lessons from mixed groups; groups with equal rewards are dropped before any forward pass."""
    lessons = []
    for group in groups:
        if is_mixed(group):
            for episode, advantage in zip(group, advantages([episode.total_reward for episode in group]), strict=True):
                lessons.append(lesson(episode, advantage=advantage, kl=kl))
    return lessons


def kl_only(groups: Iterable[Group], lessons: Iterable[Lesson], kl: float) -> list[Lesson]:
    """Lessons with the KL term alone, from episodes that have no lesson yet; none if its weight is 0."""
    known = {one.episode for one in lessons}
    return [lesson(episode, kl=kl) for group in groups if kl for episode in group if episode.id not in known]


def imitation_lessons(groups: Iterable[Group], weight: float, kl: float) -> list[Lesson]:
    """A cross-entropy lesson from every success."""
    return [lesson(episode, imitation=weight, kl=kl) for group in groups for episode in group if episode.success]


def replay_lessons(groups: Sequence[Group], options: LearnOptions) -> list[Lesson]:
    """Lessons from replayed old environments: the variant's policy gradient if rewards of a group differ, cross-entropy if all succeeded.

    If all failed, only the KL term is left, if it has a weight.
    """
    lessons = policy_gradient_lessons(groups, options.kl_old, VARIANTS[options.variant].advantages)
    lessons += imitation_lessons([group for group in groups if not is_mixed(group)], options.replay_weight, options.kl_old)
    return lessons + kl_only(groups, lessons, options.kl_old)


def sequences_of(turns: Turns) -> list[Ids]:
    """Each prompt with its answer, as one sequence."""
    return [prompt + action for prompt, action in turns]


def turns_of(episode: Episode) -> Turns:
    return tuple((turn.prompt_ids, turn.action_ids) for turn in episode.turns)


def lesson(episode: Episode, *, advantage: float = 0.0, imitation: float = 0.0, kl: float = 0.0) -> Lesson:
    """A lesson from an episode's tokens as they were sampled."""
    return Lesson(
        episode=episode.id,
        turns=turns_of(episode),
        sampler_logprobs=tuple(logp for turn in episode.turns for logp in turn.logprobs),
        advantage=advantage,
        imitation=imitation,
        kl=kl,
    )
