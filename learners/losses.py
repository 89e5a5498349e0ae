"""Losses and advantages, as pure functions from tensors to tensors.

Axes: G members of a group, A action tokens of a micro-batch, laid end to end.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def group_advantages(reward_G: Sequence[float]) -> list[float]:
    """A = R - mean of the group (Liu et al. 2025, Dr. GRPO: without the division by the standard deviation)."""
    mean = sum(reward_G) / len(reward_G)
    return [reward - mean for reward in reward_G]


def policy_gradient(logp_A: Tensor, sampler_logp_A: Tensor, advantage_A: Tensor, batch_tokens: int, ratio_cap: float) -> Tensor:
    """Token-mean policy gradient with truncated importance sampling (Yao et al. 2025).

    The ratio corrects for the sampler computing in other precision than the learner; it carries no gradient. `batch_tokens` counts
    the action tokens of the whole batch, so that micro-batches add up to the same gradient.
    """
    ratio_A = (logp_A.detach() - sampler_logp_A).exp().clamp(max=ratio_cap)
    return -(ratio_A * advantage_A * logp_A).sum() / batch_tokens


def cross_entropy(logp_A: Tensor, weight_A: Tensor, batch_tokens: int) -> Tensor:
    """Weighted token-mean negative log-likelihood of the actions."""
    return -(weight_A * logp_A).sum() / batch_tokens


def kl_k2(logp_A: Tensor, reference_logp_A: Tensor, weight_A: Tensor, batch_tokens: int) -> Tensor:
    """Half the squared log-ratio (Schulman 2020, k2): on the policy's own samples its gradient is that of KL(policy || reference)."""
    return (weight_A * 0.5 * (logp_A - reference_logp_A).square()).sum() / batch_tokens
