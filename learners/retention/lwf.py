"""Learning without forgetting: on the prompts of the batch, stay near the distributions of the version that serves (Li and Hoiem 2016).

KL(serving || learner) over the whole vocabulary at each action token of the batch, both at temperature T: T = 2, as the paper does. It
needs no old data. The KL terms of `kl` and `kl_old` look at the sampled tokens only, in the other direction.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from perdure.learners.batches import Lesson
from perdure.learners.gradients import ExtraLoss
from perdure.learners.losses import kl_divergence
from perdure.learners.trainee import Trainee

SOFTNESS = 2.0


def lwf(weight: float, temperature: float) -> ExtraLoss:
    """Mean over the action tokens of the batch; `temperature` is that of sampling, which `SOFTNESS` multiplies."""

    def loss(trainee: Trainee, lessons: Sequence[Lesson], share: float) -> Tensor:
        turns = [turn for one in lessons for turn in one.turns]
        serving_AV = trainee.distributions(turns, SOFTNESS * temperature, "serving" if "serving" in trainee.references else "base")
        return weight * share * kl_divergence(serving_AV, trainee.distributions(turns, SOFTNESS * temperature)).mean()

    return loss
