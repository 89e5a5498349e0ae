"""Learning without forgetting: a penalty on leaving the serving version's distributions on the batch (Li and Hoiem 2016).

KL(serving || learner) over the whole vocabulary at each action token of the batch, both at temperature 2, as in the paper. It needs no old
data. The terms of `kl` and `kl_old` use the sampled tokens only, and KL in the other direction.
"""

from __future__ import annotations

from torch import Tensor

from perdure.learners.gradients import ExtraLoss, MicroBatch

SOFTNESS = 2.0


def lwf(weight: float, temperature: float) -> ExtraLoss:
    """Mean over the action tokens of the batch by their weights; the sampling `temperature` is multiplied by `SOFTNESS`."""

    def loss(batch: MicroBatch) -> Tensor:
        serving = batch.trainee.predict(batch.policy.on, batch.trainee.serving)
        kl_K = batch.policy.head.divergence(serving.hidden_KC, batch.policy.hidden_KC, SOFTNESS * temperature)
        kl_A = kl_K[batch.policy.on.row_A[: batch.tokens]]
        return weight * (batch.per_token(batch.weights) * kl_A).sum()

    return loss
