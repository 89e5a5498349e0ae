"""Learning without forgetting: a penalty on leaving the serving version's distributions on the batch (Li and Hoiem 2016).

KL(serving || learner) over the whole vocabulary at each action token of the batch, both at temperature 2, as in the paper. It needs no old
data. The terms of `kl` and `kl_old` use the sampled tokens only, and KL in the other direction.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from perdure.learners.batches import Lesson
from perdure.learners.gradients import ExtraLoss, per_token
from perdure.learners.losses import kl_divergence
from perdure.learners.trainee import Trainee

SOFTNESS = 2.0


def lwf(weight: float, temperature: float) -> ExtraLoss:
    """Mean over the action tokens of the batch by their weights; the sampling `temperature` is multiplied by `SOFTNESS`."""

    def loss(trainee: Trainee, lessons: Sequence[Lesson], weights: Sequence[float]) -> Tensor:
        turns = [turn for lesson in lessons for turn in lesson.turns]
        serving_AV = trainee.distributions(turns, SOFTNESS * temperature, "serving" if "serving" in trainee.references else "base")
        kl_A = kl_divergence(serving_AV, trainee.distributions(turns, SOFTNESS * temperature))
        return weight * (per_token(lessons, weights, kl_A) * kl_A).sum()

    return loss
