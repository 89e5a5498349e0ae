"""Gradient episodic memory: the gradient of an update is projected so that, to first order, it does not raise the loss on old episodes.

If the gradient g conflicts with that of old episodes, it is replaced by the nearest gradient that does not: with the mean of all old
environments (A-GEM, Chaudhry et al. 2019), or with each of them (GEM, Lopez-Paz and Ranzato 2017). The memory is stored successes of old
environments; its loss is their cross-entropy, computed anew at each update. AdamW rescales the gradient and adds momentum, so the step
follows it only roughly, as GEM does with any optimiser but plain gradient descent.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from perdure.learners.batches import Lesson
from perdure.learners.gradients import ProjectGradient
from perdure.learners.model.tree import pack
from perdure.learners.ranks.ranks import share_of
from perdure.learners.trainees.trainee import Trainee

SWEEPS = 500
"""At most, of coordinate descent; a handful of old environments converges in a few."""


def a_gem(gradient_P: Tensor, memory_P: Tensor) -> Tensor:
    """g - (g.m / m.m) m if g.m < 0, else g (Chaudhry et al. 2019, equation 11)."""
    along = torch.dot(gradient_P, memory_P)
    if along >= 0:
        return gradient_P
    return gradient_P - along / torch.dot(memory_P, memory_P) * memory_P


def gem(gradient_P: Tensor, memory_KP: Tensor) -> Tensor:
    """The nearest z to g with z.m_k >= 0 for every memory k (Lopez-Paz and Ranzato 2017, equation 11).

    z = g + M^T v with v >= 0 that minimises 1/2 v^T M M^T v + (M g)^T v, by coordinate descent.
    """
    gram_KK, along_K = memory_KP @ memory_KP.T, memory_KP @ gradient_P
    v_K = torch.zeros_like(along_K)
    for _ in range(SWEEPS):
        before_K = v_K.clone()
        for k in range(len(v_K)):
            if gram_KK[k, k] > 0:
                rest = along_K[k] + gram_KK[k] @ v_K - gram_KK[k, k] * v_K[k]
                v_K[k] = (-rest / gram_KK[k, k]).clamp(min=0)
        if torch.allclose(before_K, v_K, rtol=1e-6, atol=0):
            break
    return gradient_P + v_K @ memory_KP


def gradient_projection(memories: Sequence[Sequence[Lesson]], *, mean: bool, temperature: float, budget_tokens: int) -> ProjectGradient:
    """Project away from harm to these old environments, each a list of episodes: to their mean (A-GEM), or to every one (GEM)."""

    def project(trainee: Trainee, gradient_P: Tensor) -> Tensor:
        memory_KP = torch.stack([_gradient(trainee, memory, temperature, budget_tokens) for memory in memories])
        return a_gem(gradient_P, memory_KP.mean(0)) if mean else gem(gradient_P, memory_KP)

    return project


def _gradient(trainee: Trainee, memory: Sequence[Lesson], temperature: float, budget_tokens: int) -> Tensor:
    """The gradient of the token-mean cross-entropy of these episodes; each rank computes a share."""
    tokens = sum(lesson.tokens for lesson in memory)
    mine = [memory[i] for i in share_of([lesson.sequences for lesson in memory], trainee.ranks)]
    for batch in pack([lesson.sequences for lesson in mine], budget_tokens):
        turns = [turn for i in batch for turn in mine[i].turns]
        (-trainee.logprobs(turns, temperature).sum() / tokens).backward()
    gradient_P = trainee.take_gradient()
    trainee.ranks.add_up([gradient_P])
    return gradient_P
