"""Lessons of one update from groups of episodes, as plain functions.

A group is the episodes of one task under one sampler. Episodes that did not complete are left out, never scored 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from perdure.envs.policy import Ids
from perdure.learners.losses import VARIANTS, Aggregation, leave_one_out, token_weights
from perdure.learners.options import GrpoOptions, LearnOptions
from perdure.memory.records import Episode

Group = Sequence[Episode]
Turns = tuple[tuple[Ids, Ids], ...]
"""Prompt and answer of each turn, as token ids."""
Side = Literal["target", "old", "general"]
GENERAL = "general prompts"
"""In place of an environment's name, in lessons from answers to general prompts (`retention/general/`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One episode, and its weights in the loss."""

    episode: int | None
    """The id of the stored episode; None if it was imported, is a demonstration, or answers a general prompt."""
    environment: str
    of_target: bool = True
    """Whether the job learns to be better at its environment; if not, it is an old one that is replayed, or a general prompt."""
    turns: Turns
    sampler_logprobs: tuple[float, ...] | None
    """Of all action tokens, laid end to end; None if no policy of this home sampled them."""
    advantage: float = 0.0
    """Weight of each token in the policy gradient, but for those of `cut_turns`."""
    cut_turns: tuple[int, ...] = ()
    """Numbers of the turns that are left out of the policy gradient."""
    imitation: float = 0.0
    """Weight of each token in the cross-entropy."""
    kl: float = 0.0
    """Weight of each token in the KL term to the serving version."""

    @property
    def side(self) -> Side:
        """Which part of the batch it belongs to."""
        if self.of_target:
            return "target"
        return "general" if self.environment == GENERAL else "old"

    @property
    def tokens(self) -> int:
        """Action tokens of all turns."""
        return sum(len(action) for _, action in self.turns)

    @property
    def has_policy_gradient(self) -> bool:
        """Whether any of its tokens is in the policy gradient."""
        return bool(self.advantage) and len(self.cut_turns) < len(self.turns)

    @property
    def sequences(self) -> list[Ids]:
        """Each turn with its prompt; for played episodes a prompt begins with the conversation so far."""
        return sequences_of(self.turns)


def completed(groups: Iterable[Group]) -> list[list[Episode]]:
    """The completed episodes of each group; a group with fewer than two is dropped, as it has nothing to compare."""
    complete = [[episode for episode in group if episode.state == "completed" and episode.turns] for group in groups]
    return [group for group in complete if len(group) > 1]


def is_mixed(group: Group) -> bool:
    """Whether scores differ; if not, the group has no policy gradient."""
    return len({episode.score for episode in group}) > 1


def policy_gradient_lessons(
    groups: Iterable[Group],
    kl: float,
    advantages: Callable[[Sequence[float]], list[float]] = leave_one_out,
    *,
    mask_truncated: bool = False,
) -> list[Lesson]:
    """Policy-gradient lessons from mixed groups; groups with equal scores are dropped before any forward pass.

    With `mask_truncated`, answers cut off at the token limit have no policy gradient, though their scores count for the other members: the
    overlong filtering of DAPO (Yu et al. 2025, section 3.4). An episode with nothing left is dropped if it has no KL term.
    """
    lessons = []
    for group in groups:
        if is_mixed(group):
            for episode, advantage in zip(group, advantages([episode.score for episode in group]), strict=True):
                cut = tuple(n for n, turn in enumerate(episode.turns) if turn.finish == "length") if mask_truncated else ()
                if kl or len(cut) < len(episode.turns):
                    lessons.append(replace(lesson(episode, advantage=advantage, kl=kl), cut_turns=cut))
    return lessons


def taught_share(groups: Iterable[Group], lessons: Iterable[Lesson], wanted: int) -> float:
    """How many groups have a policy gradient in these lessons, as a share of `wanted`; at most 1."""
    taught = {one.episode for one in lessons if one.has_policy_gradient}
    return min(1.0, sum(any(episode.id in taught for episode in group) for group in groups) / wanted)


def kl_only(groups: Iterable[Group], lessons: Iterable[Lesson], kl: float) -> list[Lesson]:
    """Lessons with the KL term alone, from episodes that have no lesson yet; none if its weight is 0."""
    known = {one.episode for one in lessons}
    return [lesson(episode, kl=kl) for group in groups if kl for episode in group if episode.id not in known]


def imitation_lessons(groups: Iterable[Group], weight: float, kl: float) -> list[Lesson]:
    """A cross-entropy lesson from every success; none if both weights are 0."""
    return [lesson(episode, imitation=weight, kl=kl) for group in groups if weight or kl for episode in group if episode.success]


def replay_lessons(groups: Sequence[Group], options: LearnOptions) -> list[Lesson]:
    """Lessons from replayed old environments: the variant's policy gradient if rewards of a group differ, cross-entropy if all succeeded.

    If all failed, only the KL term is left, if it has a weight.
    """
    replay, advantages = options.replay, VARIANTS[options.of(GrpoOptions).variant].advantages
    lessons = policy_gradient_lessons(groups, replay.kl, advantages, mask_truncated=options.loss.mask_truncated)
    lessons += imitation_lessons([group for group in groups if not is_mixed(group)], replay.weight, replay.kl)
    lessons += kl_only(groups, lessons, replay.kl)
    return [replace(one, of_target=False) for one in lessons]


def lesson_weights(
    lessons: Sequence[Lesson], aggregation: Aggregation, most_tokens: int, replay: float, general: float = 0.0
) -> list[float]:
    """The weight of one token of each lesson, in every term of the loss: a mean per environment, whatever number of tokens each has.

    Targets have the share 1 - `replay` together; of `replay`, general prompts have the share `general` and old environments the rest. All
    environments of a side have the same. A side without lessons leaves its share to the others. Within an environment the variant's
    `aggregation` decides. The weights of a batch add up to 1, but with `constant` to what they would be for the targets alone (T / B L).
    """
    members: dict[tuple[Side, str], list[int]] = {}
    for n, one in enumerate(lessons):
        if one.tokens:
            members.setdefault((one.side, one.environment), []).append(n)
    if not members:
        return [0.0] * len(lessons)
    sides = Counter(side for side, _ in members)
    shares: dict[Side, float] = {"target": 1 - replay, "old": replay * (1 - general), "general": replay * general}
    present = sum(shares[side] for side in sides)

    def published(numbers: Sequence[int]) -> tuple[list[float], float]:
        """The aggregation's own weights of these lessons, and their sum over all tokens."""
        lengths = [lessons[n].tokens for n in numbers]
        weights = token_weights(lengths, aggregation, most_tokens)
        return weights, sum(weight * length for weight, length in zip(weights, lengths, strict=True))

    _, total = published([n for (side, _), numbers in members.items() for n in numbers if side == "target" or "target" not in sides])
    found = [0.0] * len(lessons)
    for (side, _), numbers in members.items():
        share = (1.0 if len(sides) == 1 else shares[side] / present) / sides[side]
        weights, own = published(numbers)
        for n, weight in zip(numbers, weights, strict=True):
            found[n] = total * share * weight / own
    return found


def sequences_of(turns: Turns) -> list[Ids]:
    """Each prompt with its answer, as one sequence."""
    return [prompt + action for prompt, action in turns]


def turns_of(episode: Episode) -> Turns:
    return tuple((turn.prompt_ids, turn.action_ids) for turn in episode.turns)


def lesson(episode: Episode, *, advantage: float = 0.0, imitation: float = 0.0, kl: float = 0.0) -> Lesson:
    """A lesson from an episode's tokens as they were sampled."""
    return Lesson(
        episode=episode.id,
        environment=episode.environment,
        turns=turns_of(episode),
        sampler_logprobs=tuple(logp for turn in episode.turns for logp in turn.logprobs),
        advantage=advantage,
        imitation=imitation,
        kl=kl,
    )
