"""The gradient of one pass over a batch of lessons, accumulated over micro-batches.

The loss is a sum over action tokens: the policy gradient of the variant with truncated importance sampling, cross-entropy, and a KL penalty
to the serving version, each with its lesson's weight; and extra losses. All of them use the token weights of the batch
(`batches.py:lesson_weights`), so the split into micro-batches changes memory only, and that into the shares of several ranks time only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from perdure.envs.policy import Ids
from perdure.learners.batches import Lesson, Turns, lesson_weights, sequences_of
from perdure.learners.losses import VARIANTS, Variant, kl_penalty, truncated_ratio
from perdure.learners.model.tree import pack
from perdure.learners.options import GrpoOptions, LearnOptions
from perdure.learners.ranks.ranks import Ranks, share_of
from perdure.learners.trainees.trained_weights import Reference
from perdure.learners.trainees.trainee import Trainee
from perdure.learners.trainees.turn_tree import Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Some lessons of a batch, and what the learner predicts for their tokens; axis A: these tokens, laid end to end."""

    trainee: Trainee
    lessons: Sequence[Lesson]
    weights: Sequence[float]
    """Of one token of each lesson."""
    policy: Predictions
    """Its first A tokens are those of the lessons."""
    tokens: int

    def per_token(self, values: Iterable[float]) -> Tensor:
        """Each lesson's value for each of its action tokens, `(A,)`."""
        return per_token(self.lessons, values, self.policy.hidden_KC)

    @property
    def share(self) -> float:
        """The weight of all its tokens."""
        return sum(lesson.tokens * weight for lesson, weight in zip(self.lessons, self.weights, strict=True))


ExtraLoss = Callable[[MicroBatch], Tensor]
"""A further term of the loss for each micro-batch, by the weights of its tokens; a term that does not depend on the lessons is multiplied
by their share of the batch."""

ProjectGradient = Callable[[Trainee, Tensor], Tensor]
"""Replaces the gradient of an update, all parameters laid end to end, by another one. It may compute further gradients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """An episode on which the distance to the references is measured."""

    turns: Turns
    is_old: bool
    """Whether it is of an old environment."""


@dataclass(slots=True, kw_only=True)
class PassStats:
    """Statistics of one pass. Log-ratios are of learner to sampler."""

    log_ratios: list[Tensor] = field(default_factory=list)
    nll: list[float] = field(default_factory=list)
    """Negative log-likelihood of each token that is imitated."""
    kl: list[float] = field(default_factory=list)
    """The KL penalty, unweighted, of each token that has one."""
    extra: dict[str, float] = field(default_factory=dict)
    divergences: dict[tuple[Reference, bool], list[float]] = field(default_factory=dict)
    """KL(learner || reference) over the vocabulary at each token of the measured episodes, by reference and by `is_old`."""


def gathered(seen: PassStats, ranks: Ranks) -> PassStats:
    """The statistics of all ranks together."""
    if ranks.count == 1:
        return seen
    mine = asdict(seen) | {
        "log_ratios": torch.cat(seen.log_ratios).tolist() if seen.log_ratios else [],
        "divergences": [[reference, is_old, values] for (reference, is_old), values in seen.divergences.items()],
    }
    every = PassStats(extra=dict.fromkeys(seen.extra, 0.0))
    for found in map(json.loads, ranks.gather(json.dumps(mine).encode())):
        every.log_ratios.append(torch.tensor(found["log_ratios"]))
        every.nll += found["nll"]
        every.kl += found["kl"]
        for name, value in found["extra"].items():
            every.extra[name] += value
        for reference, is_old, values in found["divergences"]:
            every.divergences.setdefault((reference, is_old), []).extend(values)
    return every


def accumulate_gradient(
    trainee: Trainee,
    lessons: Sequence[Lesson],
    options: LearnOptions,
    *,
    most_tokens: int,
    old_logprobs: dict[Lesson, Tensor],
    extra_losses: Mapping[str, ExtraLoss],
    measured: Sequence[Measured] = (),
) -> PassStats:
    """Put the gradient of these lessons into the trainee's parameters, which have none yet: of several ranks each computes a share.

    `most_tokens` is L of the constant aggregation. `old_logprobs` are of the policy before the first of several passes, which fills it with
    those of its share. Measured episodes join the trees of the lessons, with which they mostly share their tokens. The statistics are of
    all ranks.
    """
    variant = VARIANTS[options.of(GrpoOptions).variant]
    weights = lesson_weights(lessons, variant.aggregation, most_tokens, options.replay.share, options.general.share)
    seen = PassStats(extra=dict.fromkeys(extra_losses, 0.0))
    everywhere = _alike(trainee, lessons, measured, extra_losses)
    sequences = [lesson.sequences for lesson in lessons], [sequences_of(one.turns) for one in measured]
    for places in _micro_batches(trainee, *sequences, options.tuning.budget_tokens):
        own = [i for i in places if i < len(lessons)]
        also = [measured[i - len(lessons)] for i in places if i >= len(lessons)]
        part = [lessons[i] for i in own]
        turns = [turn for lesson in part for turn in lesson.turns] + [turn for one in also for turn in one.turns]
        references = _reference_predictions(trainee, part, also, everywhere.references)
        is_trained = everywhere.is_trained or bool(extra_losses) or any(_is_trained(lesson) for lesson in part)
        with torch.set_grad_enabled(is_trained):
            batch = MicroBatch(
                trainee=trainee,
                lessons=part,
                weights=[weights[i] for i in own],
                policy=trainee.predict(trainee.tree(turns)),
                tokens=sum(lesson.tokens for lesson in part),
            )
            loss = None
            if part or trainee.in_step:
                loss = _loss(batch, variant, options, references, old_logprobs, extra_losses, seen)
        _measure(batch, also, references, options.common.temperature, seen)
        if loss is not None and loss.requires_grad:
            loss.backward()
    trainee.add_up_gradient()
    return gathered(seen, trainee.ranks)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alike:
    """What every micro-batch of every rank does, because ranks that hold parts of a model compute its layers together."""

    references: frozenset[Reference] = frozenset()
    """They predict, for whichever turns there are."""
    is_trained: bool = False


def _alike(trainee: Trainee, lessons: Sequence[Lesson], measured: Sequence[Measured], extra_losses: Mapping[str, ExtraLoss]) -> _Alike:
    if not trainee.in_step:
        return _Alike()
    held: set[Reference] = {trainee.serving} if any(lesson.kl for lesson in lessons) else set()
    return _Alike(
        references=frozenset(held | {"base", trainee.serving} if measured else held),
        is_trained=bool(extra_losses) or any(_is_trained(lesson) for lesson in lessons),
    )


def _is_trained(lesson: Lesson) -> bool:
    return bool(lesson.advantage or lesson.imitation or lesson.kl)


def _micro_batches(
    trainee: Trainee, lessons: Sequence[Sequence[Ids]], measured: Sequence[Sequence[Ids]], budget_tokens: int
) -> list[list[int]]:
    """The places of this rank's lessons, and behind them of its measured episodes, in micro-batches. The share of lessons does not depend
    on what is measured, so that it is the same in each pass. Empty ones are added if ranks need the same number of them."""
    mine = share_of(lessons, trainee.ranks) + [len(lessons) + i for i in share_of(measured, trainee.ranks)]
    items = [*lessons, *measured]
    packed = pack([items[i] for i in mine], trainee.nodes_at_once(budget_tokens), by_rows=trainee.model.by_rows)
    found = [[mine[i] for i in places] for places in packed]
    most = max(int(n) for n in trainee.ranks.gather(str(len(found)).encode())) if trainee.in_step else len(found)
    return found + [[] for _ in range(most - len(found))]


def _loss(
    batch: MicroBatch,
    variant: Variant,
    options: LearnOptions,
    references: Mapping[Reference, Predictions],
    old_logprobs: dict[Lesson, Tensor],
    extra_losses: Mapping[str, ExtraLoss],
    seen: PassStats,
) -> Tensor:
    """The loss of a micro-batch; adds to `seen` and `old_logprobs`."""
    part, trainee = batch.lessons, batch.trainee
    logp_A = batch.policy.logprobs(options.common.temperature)[: batch.tokens]
    sampler_logp_A = _sampler_logprobs(part, logp_A)
    is_sampled_A = ~sampler_logp_A.isnan()
    seen.log_ratios.append((logp_A.detach() - sampler_logp_A)[is_sampled_A])
    token_weight_A = batch.per_token(batch.weights)
    imitation_A = batch.per_token(lesson.imitation for lesson in part)
    loss = -(token_weight_A * imitation_A * logp_A).sum()
    seen.nll += (-logp_A.detach())[imitation_A > 0].tolist()
    left = _with_policy_gradient(part)
    if any(left):
        for lesson, own_logp in zip(part, logp_A.detach().split([lesson.tokens for lesson in part]), strict=True):
            old_logprobs.setdefault(lesson, own_logp)
        old_logp_A = torch.cat([old_logprobs[lesson] for lesson in part])
        advantage_A = batch.per_token(lesson.advantage for lesson in part)
        sequence_A = batch.per_token(range(len(part))).long()
        correction_A = truncated_ratio(old_logp_A, torch.where(is_sampled_A, sampler_logp_A, old_logp_A), options.loss.ratio_cap)
        left_A = torch.tensor(left, device=logp_A.device)
        value_A = variant.surrogate(logp_A[left_A], old_logp_A[left_A], advantage_A[left_A], sequence_A[left_A])
        loss = loss - ((token_weight_A * correction_A)[left_A] * value_A).sum()
    kl_A = batch.per_token(lesson.kl for lesson in part)
    has_kl_A = kl_A > 0
    if bool(has_kl_A.any()):
        tokens = sum(lesson.tokens for lesson in part if lesson.kl)
        reference_logp = references[trainee.serving].logprobs(options.common.temperature)[:tokens]
        penalty = kl_penalty(logp_A[has_kl_A], reference_logp, options.loss.kl_estimator)
        loss = loss + ((token_weight_A * kl_A)[has_kl_A] * penalty).sum()
        seen.kl += penalty.detach().tolist()
    for name, extra in extra_losses.items():
        term = extra(batch)
        loss = loss + term
        seen.extra[name] += float(term.detach())
    return loss + 0 * batch.policy.hidden_KC.sum() if trainee.in_step else loss  # a rank without lessons joins in the gradient too


def _reference_predictions(
    trainee: Trainee, part: Sequence[Lesson], also: Sequence[Measured], everywhere: frozenset[Reference]
) -> dict[Reference, Predictions]:
    """Predictions of the references: of the serving version for lessons with a KL term, then for measured episodes; of the base model for
    those alone if another version serves. Those of `everywhere` predict in any case."""
    held = [turn for lesson in part if lesson.kl for turn in lesson.turns]
    measured = [turn for one in also for turn in one.turns]
    wanted: dict[Reference, list[tuple[Ids, Ids]]] = {"base": measured, trainee.serving: [*held, *measured]}
    return {
        reference: trainee.predict(trainee.tree(turns), reference)
        for reference, turns in wanted.items()
        if turns or reference in everywhere
    }


@torch.no_grad()
def _measure(
    batch: MicroBatch, also: Sequence[Measured], references: Mapping[Reference, Predictions], temperature: float, seen: PassStats
) -> None:
    """Add the divergences at the tokens of measured episodes, which are the last of each tree."""
    is_old = [one.is_old for one in also for _, action in one.turns for _ in action]
    if not is_old:
        return
    head, own_KC = batch.policy.head, batch.policy.hidden_AC[-len(is_old) :]
    for reference in {"base", batch.trainee.serving}:
        kls = head.divergence(own_KC, references[reference].hidden_AC[-len(is_old) :], temperature).tolist()
        for kl, old in zip(kls, is_old, strict=True):
            seen.divergences.setdefault((reference, old), []).append(kl)


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
