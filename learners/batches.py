"""From groups of episodes to what one update learns from, as plain functions.

A group is the episodes of one task under one sampler. Episodes that the environment spoilt are no data: they are left out, never scored 0.
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
    """One episode, and how strongly to do it again."""

    episode: int | None
    """The stored episode that it is; None where it is none of ours."""
    turns: Turns
    sampler_logprobs: tuple[float, ...] | None
    """Of all action tokens, laid end to end; None where no policy of ours sampled them."""
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
        """What is computed for it: each turn with its prompt, which begins with all that was said before wherever we have played it."""
        return sequences_of(self.turns)


def completed(groups: Iterable[Group]) -> list[list[Episode]]:
    """Groups without episodes that did not complete; a group of fewer than two is dropped, as nothing can be compared in it."""
    kept = [[episode for episode in group if episode.state == "completed" and episode.turns] for group in groups]
    return [group for group in kept if len(group) > 1]


def is_mixed(group: Group) -> bool:
    """Whether rewards differ: only then has the group a policy gradient."""
    return len({episode.total_reward for episode in group}) > 1


def contrast(groups: Iterable[Group], kl: float, advantages: Callable[[Sequence[float]], list[float]] = centred) -> list[Lesson]:
    """Mixed groups as policy-gradient lessons; groups of equal rewards are dropped before any forward pass."""
    lessons = []
    for group in groups:
        if is_mixed(group):
            for episode, advantage in zip(group, advantages([episode.total_reward for episode in group]), strict=True):
                lessons.append(lesson(episode, advantage=advantage, kl=kl))
    return lessons


def kl_only(groups: Iterable[Group], taught: Iterable[Lesson], kl: float) -> list[Lesson]:
    """Episodes of which nothing is taught, and which only the KL term looks at; none where it has no weight."""
    known = {one.episode for one in taught}
    return [lesson(episode, kl=kl) for group in groups if kl for episode in group if episode.id not in known]


def imitate(groups: Iterable[Group], weight: float, kl: float) -> list[Lesson]:
    """Every success as a cross-entropy lesson."""
    return [lesson(episode, imitation=weight, kl=kl) for group in groups for episode in group if episode.success]


def replayed(groups: Sequence[Group], options: LearnOptions) -> list[Lesson]:
    """Old environments played again by the current step: the policy gradient of the variant where rewards differ, cross-entropy where all
    succeeded.

    Where all failed there is nothing to reward, and only the KL term, if it has a weight, keeps them as they were.
    """
    lessons = contrast(groups, options.kl_old, VARIANTS[options.variant].advantages)
    lessons += imitate([group for group in groups if not is_mixed(group)], options.replay_weight, options.kl_old)
    return lessons + kl_only(groups, lessons, options.kl_old)


def sequences_of(turns: Turns) -> list[Ids]:
    """Each prompt with its answer: what is computed for an episode."""
    return [prompt + action for prompt, action in turns]


def turns_of(episode: Episode) -> Turns:
    return tuple((turn.prompt_ids, turn.action_ids) for turn in episode.turns)


def lesson(episode: Episode, *, advantage: float = 0.0, imitation: float = 0.0, kl: float = 0.0) -> Lesson:
    """What its own policy did, token for token."""
    return Lesson(
        episode=episode.id,
        turns=turns_of(episode),
        sampler_logprobs=tuple(logp for turn in episode.turns for logp in turn.logprobs),
        advantage=advantage,
        imitation=imitation,
        kl=kl,
    )
