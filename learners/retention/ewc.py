"""Elastic weight consolidation: a penalty on changes of weights that matter to old environments (Kirkpatrick et al. 2017).

L = weight / 2 * sum_i F_i (theta_i - theta*_i)^2, with theta* the weights at the start of the job and F the diagonal of the Fisher
information there, estimated from stored successes: the mean over episodes of the squared gradient of their log-likelihood (the empirical
Fisher). With LoRA, theta are the adapter's two matrices, not their product. Left out: an online Fisher over many jobs; each job estimates
its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from perdure.learners.batches import Lesson
from perdure.learners.gradients import ExtraLoss, MicroBatch
from perdure.learners.ranks.ranks import share_of
from perdure.learners.trainees.trainee import Trainee


def fisher(trainee: Trainee, memory: Sequence[Lesson], temperature: float) -> Tensor:
    """Diagonal Fisher information `(P,)` of all parameters laid end to end; one backward pass for each episode, each on one rank."""
    sum_P = torch.zeros(sum(parameter.numel() for parameter in trainee.parameters), device=trainee.device)
    for i in share_of([lesson.sequences for lesson in memory], trainee.ranks):
        trainee.logprobs(memory[i].turns, temperature).sum().backward()
        sum_P += trainee.take_gradient().square()
    trainee.ranks.add_up([sum_P])
    return sum_P / max(len(memory), 1)


def ewc(trainee: Trainee, fisher_P: Tensor, weight: float) -> ExtraLoss:
    """The penalty on changes from the trainee's current weights."""
    start_P = torch.cat([parameter.detach().float().flatten() for parameter in trainee.parameters])

    def loss(batch: MicroBatch) -> Tensor:
        now_P = torch.cat([parameter.float().flatten() for parameter in batch.trainee.parameters])
        return batch.share * weight / 2 * (fisher_P * (now_P - start_P).square()).sum()

    return loss
