"""Gradient episodic memory: the gradient that is followed does not raise the loss on old episodes, to first order.

Where the gradient g of an update and that of old episodes point apart, g is exchanged for the nearest gradient that does not: against the
mean of all old environments (A-GEM, Chaudhry et al. 2019), or against each of them (GEM, Lopez-Paz and Ranzato 2017). The memory is the
stored successes of old environments, and its loss is their cross-entropy, computed anew at each update. AdamW scales the gradient and adds
momentum to it, so that the step goes that way only about: as GEM with any optimiser but plain gradient descent.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from perdure.learners.batches import Lesson
from perdure.learners.engines.tree import pack
from perdure.learners.gradients import ProjectGradient
from perdure.learners.trainee import Trainee

SWEEPS = 500
"""Of coordinate ascent on the dual; a handful of old environments converges in a few."""


def a_gem(gradient_P: Tensor, memory_P: Tensor) -> Tensor:
    """g - (g.m / m.m) m where g.m < 0, else g (Chaudhry et al. 2019, equation 11)."""
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
    """Project onto what does not harm these old environments, each with its episodes: their mean (A-GEM), or every one (GEM)."""

    def project(trainee: Trainee, gradient_P: Tensor) -> Tensor:
        memory_KP = torch.stack([_gradient(trainee, memory, temperature, budget_tokens) for memory in memories])
        return a_gem(gradient_P, memory_KP.mean(0)) if mean else gem(gradient_P, memory_KP)

    return project


def _gradient(trainee: Trainee, memory: Sequence[Lesson], temperature: float, budget_tokens: int) -> Tensor:
    """Of the token-mean cross-entropy of these episodes."""
    tokens = sum(one.tokens for one in memory)
    for batch in pack([one.sequences for one in memory], budget_tokens):
        turns = [turn for i in batch for turn in memory[i].turns]
        (-trainee.logprobs(turns, temperature).sum() / tokens).backward()
    return trainee.take_gradient()
