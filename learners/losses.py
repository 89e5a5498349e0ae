"""Losses and advantages, as pure functions from tensors to tensors.

Axes: G members of a group, A action tokens of a micro-batch laid end to end, V tokens of the vocabulary. A *sequence* is all action
tokens of one episode; `sequence_A` numbers the sequence of each token. A surrogate is maximised, and has one value for each token;
`Variant` says how the tokens of a batch are weighted.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k2", "k3"]
Aggregation = Literal["token", "sequence", "constant"]
Surrogate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`(logp_A, old_logp_A, advantage_A, sequence_A)` to one value for each token. `old_logp_A` is of the policy before the update."""

TINY = 1e-4
"""Added to the standard deviation, as in TRL, so that almost equal rewards do not give huge advantages."""


def centred(reward_G: Sequence[float]) -> list[float]:
    """A = R - mean of the group (Liu et al. 2025, Dr. GRPO: without the division by the standard deviation)."""
    mean = statistics.fmean(reward_G)
    return [reward - mean for reward in reward_G]


def standardised(reward_G: Sequence[float]) -> list[float]:
    """A = (R - mean) / (standard deviation + 1e-4), with G - 1 in the deviation (Shao et al. 2024, GRPO)."""
    spread = statistics.stdev(reward_G) + TINY
    return [advantage / spread for advantage in centred(reward_G)]


def leave_one_out(reward_G: Sequence[float]) -> list[float]:
    """A = R - mean of the others (Ahmadian et al. 2024, RLOO)."""
    others = len(reward_G) - 1
    return [advantage * len(reward_G) / others for advantage in centred(reward_G)]


def clipped(low: float, high: float) -> Surrogate:
    """min(w A, clip(w, 1 - low, 1 + high) A) with w = pi / pi_old of each token (Schulman et al. 2017, PPO)."""

    def surrogate(logp_A: Tensor, old_logp_A: Tensor, advantage_A: Tensor, sequence_A: Tensor) -> Tensor:
        return _pessimistic((logp_A - old_logp_A).exp(), advantage_A, low, high)

    return surrogate


def cispo(high: float) -> Surrogate:
    """sg(min(w, 1 + high)) A log pi: the weight is clipped, no token loses its gradient (MiniMax 2025, CISPO)."""

    def surrogate(logp_A: Tensor, old_logp_A: Tensor, advantage_A: Tensor, sequence_A: Tensor) -> Tensor:
        weight_A = (logp_A.detach() - old_logp_A).exp().clamp(max=1 + high)
        return weight_A * advantage_A * logp_A

    return surrogate


def sequence_clipped(low: float, high: float, *, geometric: bool) -> Surrogate:
    """As `clipped`, with one ratio per sequence: the geometric mean of its tokens' (Zheng et al. 2025, GSPO), or their product (RLOO)."""

    def surrogate(logp_A: Tensor, old_logp_A: Tensor, advantage_A: Tensor, sequence_A: Tensor) -> Tensor:
        sequences = int(sequence_A.max()) + 1
        log_ratio_S = logp_A.new_zeros(sequences).index_add(0, sequence_A, logp_A - old_logp_A)
        if geometric:
            log_ratio_S = log_ratio_S / torch.bincount(sequence_A, minlength=sequences).clamp(min=1)
        return _pessimistic(log_ratio_S.exp()[sequence_A], advantage_A, low, high)

    return surrogate


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One member of the GRPO family.

    The weight of a token, with T tokens in B sequences of |o| tokens: `token` 1 / T, `sequence` 1 / (B |o|), `constant` 1 / (B L) with L
    the most tokens of an answer. `batches.py:lesson_weights` applies it in each environment.
    """

    advantages: Callable[[Sequence[float]], list[float]]
    surrogate: Surrogate
    aggregation: Aggregation


VARIANTS: Mapping[str, Variant] = {
    "centred": Variant(advantages=leave_one_out, surrogate=clipped(0.2, 0.2), aggregation="token"),
    "grpo": Variant(advantages=standardised, surrogate=clipped(0.2, 0.2), aggregation="sequence"),
    "dr_grpo": Variant(advantages=centred, surrogate=clipped(0.2, 0.2), aggregation="constant"),
    "dapo": Variant(advantages=standardised, surrogate=clipped(0.2, 0.28), aggregation="token"),
    "rloo": Variant(advantages=leave_one_out, surrogate=sequence_clipped(0.2, 0.2, geometric=False), aggregation="sequence"),
    "cispo": Variant(advantages=standardised, surrogate=cispo(4.0), aggregation="token"),
    "gspo": Variant(advantages=standardised, surrogate=sequence_clipped(3e-4, 4e-4, geometric=True), aggregation="sequence"),
}
"""`centred` is the default: the token mean of DAPO, and the advantage of Dr. GRPO without its bias: a mean that contains the episode
shrinks it by (G - 1) / G, so that groups of 4 would weigh less than groups of 8."""


def token_weights(lengths: Sequence[int], aggregation: Aggregation, most_tokens: int) -> list[float]:
    """The weight of one token in each of these sequences, none of them empty, as in `Variant`."""
    total, sequences = sum(lengths), len(lengths)
    if aggregation == "token":
        return [1 / total] * sequences
    if aggregation == "sequence":
        return [1 / (sequences * length) for length in lengths]
    return [1 / (sequences * most_tokens)] * sequences


def truncated_ratio(logp_A: Tensor, sampler_logp_A: Tensor, cap: float) -> Tensor:
    """min(pi / pi_sampler, cap), without a gradient: truncated importance sampling, which corrects for a sampler with another precision or
    older weights (Yao et al. 2025)."""
    return (logp_A.detach() - sampler_logp_A).exp().clamp(max=cap)


def kl_penalty(logp_A: Tensor, reference_logp_A: Tensor, estimator: Estimator) -> Tensor:
    """KL(policy || reference) as a penalty on each token of the policy's own samples (Schulman 2020).

    With x = log(pi / pi_ref): k2 = x^2 / 2 has the gradient of the KL; k3 = exp(-x) - 1 + x has the KL as its mean, and the gradient of the
    KL in the other direction.
    """
    log_ratio_A = logp_A - reference_logp_A
    return 0.5 * log_ratio_A.square() if estimator == "k2" else torch.expm1(-log_ratio_A) + log_ratio_A


def kl_divergence(logp_AV: Tensor, other_logp_AV: Tensor) -> Tensor:
    """KL(first || second) at each position, over the whole vocabulary."""
    return (logp_AV.exp() * (logp_AV - other_logp_AV)).sum(-1)


def _pessimistic(ratio_A: Tensor, advantage_A: Tensor, low: float, high: float) -> Tensor:
    return torch.minimum(ratio_A * advantage_A, ratio_A.clamp(1 - low, 1 + high) * advantage_A)
