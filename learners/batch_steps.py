"""The optimiser steps of one update: one for each pass over its batch. Every rank of a job runs this, with the same batch.

Left out: what surrounds an update in the process of the job, which samples, loads the new weights and writes (`updating.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from perdure.learners.batches import Lesson, Turns
from perdure.learners.distillation import distillation
from perdure.learners.gradients import ExtraLoss, Measured, PassStats, ProjectGradient, accumulate_gradient
from perdure.learners.options import LearnOptions
from perdure.learners.trainees.trainee import Trainee


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What keeps old skills beside replay and KL (`retention/`)."""

    extra_losses: Mapping[str, ExtraLoss] = field(default_factory=dict)
    project_gradient: ProjectGradient | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one update learns from."""

    lessons: Sequence[Lesson]
    measured: Sequence[Measured] = ()
    """Measured in the first pass."""
    taught: Mapping[Lesson, Turns] = field(default_factory=dict)
    """Lessons that follow a teacher, and their turns under its prompt."""
    most_tokens: int
    """Of an answer: L of the constant aggregation."""
    passes: int
    lr: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """How the steps of an update went."""

    norm: float = 0.0
    """Of the last gradient, before clipping."""
    seen: PassStats
    """Of the first pass, over all ranks."""
    is_finite: bool = True
    """If not, no further step was made."""


def learn_batch(trainee: Trainee, batch: Batch, options: LearnOptions, retention: Retention) -> Stepped:
    """Make the steps of an update; without passes nothing changes."""
    norm, seen = 0.0, PassStats()
    old_logprobs: dict[Lesson, Tensor] = {}
    terms = {"distillation": distillation(batch.taught, options)} if batch.taught else {}
    for nth in range(batch.passes):
        stats = accumulate_gradient(
            trainee,
            batch.lessons,
            options,
            most_tokens=batch.most_tokens,
            old_logprobs=old_logprobs,
            extra_losses={**terms, **retention.extra_losses},
            measured=batch.measured if nth == 0 else (),
        )
        seen = stats if nth == 0 else seen
        if retention.project_gradient is not None:
            trainee.put_gradient(retention.project_gradient(trainee, trainee.take_gradient()))
        norm = trainee.step(batch.lr, options.common.max_grad_norm)
        if not (math.isfinite(norm) and trainee.is_finite()):
            return Stepped(norm=norm, seen=seen, is_finite=False)
    return Stepped(norm=norm, seen=seen)
