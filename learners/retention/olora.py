"""O-LoRA: a new adapter beside the frozen old one, in a subspace orthogonal to it (Wang et al. 2023).

L = weight * sum over layers of sum_jk |(A_old A_new^T)_jk|, where the rows of A span what an adapter reads. The version that comes of it
is the sum of both adapters, so its rank is the sum of theirs: it grows with every such job, up to what an adapter may have. Where the start
has no adapter there is nothing to be orthogonal to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from perdure.learners.batches import Lesson
from perdure.learners.gradients import ExtraLoss
from perdure.learners.trainee import Trainee
from perdure.learners.weights.weight_sets import LoraPair


def overlap(old: Mapping[str, LoraPair], new: Mapping[str, LoraPair]) -> Tensor:
    """Sum of the absolute products of what two adapters read, over the layers that both have."""
    return sum((old[name].down_RI @ new[name].down_RI.T).abs().sum() for name in old.keys() & new.keys())  # type: ignore[return-value]


def olora(trainee: Trainee, weight: float) -> ExtraLoss:
    """The penalty on overlap with the adapter that a stacked trainee stands on."""
    below = trainee.below()

    def loss(trainee: Trainee, lessons: Sequence[Lesson], share: float) -> Tensor:
        return share * weight * overlap(below, trainee.above())

    return loss
