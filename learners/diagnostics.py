"""Diagnostics of an update: its episodes, distances between learner, sampler and references, and its cost.

Plain functions from episodes and tensors to numbers; None if there is no data. docs/learners-reference.md explains each.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from perdure.learners.batches import Group, Turns, is_mixed, turns_of
from perdure.learners.trainees.trained_weights import Reference
from perdure.memory.contracts.results import Cost, Drift, GroupStats, RatioStats, Update


def group_stats(target: Sequence[Group], old: Sequence[Group], spoilt: int) -> GroupStats:
    """Means over the episodes of targets and of old environments."""
    episodes = [episode for group in target for episode in group]
    logprobs = [logp for episode in episodes for turn in episode.turns for logp in turn.logprobs]
    return GroupStats(
        reward=mean([episode.total_reward for episode in episodes]),
        success=mean([float(episode.success) for episode in episodes]),
        old_success=mean([float(episode.success) for group in old for episode in group]),
        entropy=mean([-logp for logp in logprobs]),
        groups=len(target),
        dropped_groups=sum(not is_mixed(group) for group in target),
        spoilt_episodes=spoilt,
        live_groups=sum(group[0].purpose == "live" for group in (*target, *old)),
    )


def ratio_stats(log_ratios: Sequence[Tensor]) -> RatioStats:
    """Differences between learner and sampler: `mismatch_kl` is the k3 estimate of KL(sampler || learner), `ess` the effective sample size
    of the importance weights as a share of the tokens."""
    if not any(len(log_ratio_A) for log_ratio_A in log_ratios):
        return RatioStats()
    log_ratio_A = torch.cat(list(log_ratios)).double()
    ratio_A = log_ratio_A.exp()
    return RatioStats(
        ratio_mean=float(ratio_A.mean()),
        ratio_max=float(ratio_A.max()),
        ess=float(ratio_A.sum().square() / ratio_A.square().sum() / len(ratio_A)),
        mismatch_kl=float((torch.expm1(log_ratio_A) - log_ratio_A).mean()),
    )


def drift_of(divergences: Mapping[tuple[Reference, bool], Sequence[float]], serving: Reference) -> Drift:
    """Means of KL(current weights || base) and KL(current weights || serving version), exact over the vocabulary, in nats per token.

    If the base model serves, both are equal.
    """

    def of(reference: Reference, is_old: bool) -> float | None:
        return mean(divergences.get((reference, is_old), ()))

    return Drift(
        kl_base_new=of("base", False), kl_base_old=of("base", True), kl_serving_new=of(serving, False), kl_serving_old=of(serving, True)
    )


def cost(updates: Sequence[Update]) -> Cost:
    """The total cost of a job."""
    return Cost(
        updates=len(updates),
        sampled_tokens=sum(update.sampled_tokens for update in updates),
        learned_tokens=sum(update.tokens for update in updates),
        sampling_s=round(sum(update.sampling_s for update in updates), 1),
        learning_s=round(sum(update.learning_s for update in updates), 1),
    )


def mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def spread_sample(groups: Sequence[Group], most: int) -> list[Turns]:
    """Up to `most` episodes, evenly from all groups: the first of each, then the second, and so on."""
    order = sorted((member, n) for n, group in enumerate(groups) for member in range(len(group)))
    return [turns_of(groups[n][member]) for member, n in order[:most]]
