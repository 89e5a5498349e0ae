"""The gradient of one pass over a batch of lessons, accumulated over micro-batches.

The loss is a sum over action tokens: the policy gradient of the variant with truncated importance sampling, cross-entropy, and a KL penalty
to the serving version, each with its lesson's weight; and extra losses. All of them use the token weights of the batch
(`batches.py:lesson_weights`), so the split into micro-batches changes memory only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from perdure.learners.batches import Lesson, lesson_weights
from perdure.learners.engines.tree import pack
from perdure.learners.losses import VARIANTS, kl_penalty, truncated_ratio
from perdure.learners.options import GrpoOptions, LearnOptions
from perdure.learners.trainee import Reference, Trainee

ExtraLoss = Callable[[Trainee, Sequence[Lesson], Sequence[float]], Tensor]
"""A further term of the loss, computed for each micro-batch from its lessons and the weight of one token in each of them; a term that does
not depend on the lessons is multiplied by `share_of_batch`."""

ProjectGradient = Callable[[Trainee, Tensor], Tensor]
"""Replaces the gradient of an update, all parameters laid end to end, by another one. It may compute further gradients."""


@dataclass(slots=True, kw_only=True)
class PassStats:
    """Statistics of one pass. Log-ratios are of learner to sampler."""

    log_ratios: list[Tensor] = field(default_factory=list)
    nll: list[float] = field(default_factory=list)
    """Negative log-likelihood of each token that is imitated."""
    kl: list[float] = field(default_factory=list)
    """The KL penalty, unweighted, of each token that has one."""
    extra: dict[str, float] = field(default_factory=dict)


def accumulate_gradient(
    trainee: Trainee,
    lessons: Sequence[Lesson],
    options: LearnOptions,
    *,
    most_tokens: int,
    old_logprobs: dict[Lesson, Tensor],
    extra_losses: Mapping[str, ExtraLoss],
) -> PassStats:
    """Accumulate gradients in the trainee's parameters.

    `most_tokens` is L of the constant aggregation. `old_logprobs` are of the policy before the first of several passes, which
    fills it. Axes: A action tokens of a micro-batch.
    """
    variant = VARIANTS[options.of(GrpoOptions).variant]
    weights = lesson_weights(lessons, variant.aggregation, most_tokens, options.replay.share)
    reference: Reference = "serving" if "serving" in trainee.references else "base"
    seen = PassStats(extra=dict.fromkeys(extra_losses, 0.0))
    for batch in pack([lesson.sequences for lesson in lessons], options.tuning.budget_tokens):
        part, part_weights = [lessons[i] for i in batch], [weights[i] for i in batch]
        turns = [turn for lesson in part for turn in lesson.turns]
        with torch.set_grad_enabled(any(lesson.advantage or lesson.imitation or lesson.kl for lesson in part)):
            logp_A = trainee.logprobs(turns, options.common.temperature)
        sampler_logp_A = _sampler_logprobs(part, logp_A)
        is_sampled_A = ~sampler_logp_A.isnan()
        token_weight_A = per_token(part, part_weights, logp_A)
        imitation_A = per_token(part, (lesson.imitation for lesson in part), logp_A)
        loss = -(token_weight_A * imitation_A * logp_A).sum()
        seen.nll += (-logp_A.detach())[imitation_A > 0].tolist()
        left = _with_policy_gradient(part)
        if any(left):
            for lesson, own_logp in zip(part, logp_A.detach().split([lesson.tokens for lesson in part]), strict=True):
                old_logprobs.setdefault(lesson, own_logp)
            old_logp_A = torch.cat([old_logprobs[lesson] for lesson in part])
            advantage_A = per_token(part, (lesson.advantage for lesson in part), logp_A)
            sequence_A = per_token(part, range(len(part)), logp_A).long()
            correction_A = truncated_ratio(old_logp_A, torch.where(is_sampled_A, sampler_logp_A, old_logp_A), options.loss.ratio_cap)
            left_A = torch.tensor(left, device=logp_A.device)
            value_A = variant.surrogate(logp_A[left_A], old_logp_A[left_A], advantage_A[left_A], sequence_A[left_A])
            loss = loss - ((token_weight_A * correction_A)[left_A] * value_A).sum()
        if any(lesson.kl for lesson in part):
            kl_A = per_token(part, (lesson.kl for lesson in part), logp_A)
            penalty_A = kl_penalty(logp_A, trainee.logprobs(turns, options.common.temperature, reference), options.loss.kl_estimator)
            loss = loss + (token_weight_A * kl_A * penalty_A).sum()
            seen.kl += penalty_A.detach()[kl_A > 0].tolist()
        for name, extra in extra_losses.items():
            term = extra(trainee, part, part_weights)
            loss = loss + term
            seen.extra[name] += float(term.detach())
        if loss.requires_grad:
            loss.backward()
        seen.log_ratios.append((logp_A.detach() - sampler_logp_A)[is_sampled_A])
    return seen


def share_of_batch(lessons: Sequence[Lesson], weights: Sequence[float]) -> float:
    """The weight of all tokens of these lessons."""
    return sum(lesson.tokens * weight for lesson, weight in zip(lessons, weights, strict=True))


def _with_policy_gradient(lessons: Sequence[Lesson]) -> list[bool]:
    """Which action tokens are in the policy gradient: those of lessons with an advantage, but for turns that are left out."""
    return [
        bool(lesson.advantage) and n not in lesson.cut_turns
        for lesson in lessons
        for n, (_, action) in enumerate(lesson.turns)
        for _ in action
    ]


def per_token(lessons: Sequence[Lesson], values: Iterable[float], like: Tensor) -> Tensor:
    """Repeat each lesson's value for each of its action tokens."""
    return like.new_tensor([value for lesson, value in zip(lessons, values, strict=True) for _ in range(lesson.tokens)])


def _sampler_logprobs(lessons: Sequence[Lesson], like: Tensor) -> Tensor:
    """Log-probs under the samplers; NaN for tokens that were not sampled here."""
    return like.new_tensor([logp for lesson in lessons for logp in lesson.sampler_logprobs or (math.nan,) * lesson.tokens])
