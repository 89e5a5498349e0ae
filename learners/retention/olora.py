"""O-LoRA: a new adapter beside the frozen old one, in a subspace orthogonal to it (Wang et al. 2023).

L = weight * sum over layers of sum_jk |(A_old A_new^T)_jk|; the rows of A span the input subspace of an adapter. The new version is the sum
of both adapters, so ranks add up with every such job, to the largest allowed rank. If the start has no adapter, there is no penalty.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from perdure.learners.gradients import ExtraLoss, MicroBatch
from perdure.learners.trainees.lora_weights import LoraWeights
from perdure.learners.weights.weight_sets import LoraPair


def overlap(old: Mapping[str, LoraPair], new: Mapping[str, LoraPair]) -> Tensor:
    """Sum of |A_old A_new^T| over the layers that both adapters have."""
    return sum((old[name].down_RI @ new[name].down_RI.T).abs().sum() for name in old.keys() & new.keys())  # type: ignore[return-value]


def olora(adapter: LoraWeights, weight: float) -> ExtraLoss:
    """The penalty on overlap with the frozen adapter below the one in training."""
    below = adapter.below

    def loss(batch: MicroBatch) -> Tensor:
        return batch.share * weight * overlap(below, adapter.above)

    return loss
