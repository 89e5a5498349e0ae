"""Projection of gradients: by hand, by trying all sets of active constraints, and on a model whose old loss must not rise."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
import torch
from tests.learners.conftest import plain_logprobs, plain_of, random_adapter, trainee_of
from tests.learners.retention.lessons import imitated
from torch import Tensor

from perdure.learners.retention.gradient_projection import a_gem, gem, gradient_projection
from perdure.learners.weights.base_models import ModelFiles


def of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def nearest(gradient: Tensor, memory: Tensor) -> Tensor:
    """The nearest vector with no negative product, by trying every set of constraints that may be active."""
    best, least = gradient, float("inf")
    rows = range(len(memory))
    for active in chain.from_iterable(combinations(rows, k) for k in range(len(memory) + 1)):
        z = gradient.double()
        if active:
            m = memory[list(active)].double()
            z = z - torch.linalg.pinv(m) @ (m @ z)
        if bool((memory.double() @ z >= -1e-6).all()) and float((z - gradient).norm()) < least:
            best, least = z, float((z - gradient).norm())
    return best.float()


def test_a_gradient_that_harms_nothing_stays() -> None:
    g = of(1, 2, 0)
    assert torch.equal(a_gem(g, of(1, 0, 5)), g)
    assert torch.equal(a_gem(g, of(0, 0, 1)), g)
    assert torch.equal(a_gem(g, of(0, 0, 0)), g)
    torch.testing.assert_close(gem(g, torch.stack([of(1, 0, 0), of(1, 1, 1)])), g)


def test_a_gem_takes_away_what_points_against_the_memory() -> None:
    torch.testing.assert_close(a_gem(of(1, -2, 3), of(0, 2, 0)), of(1, 0, 3))
    found = a_gem(of(-1.0, -2, 3), of(1, 1, 1) * 0.5 - of(0, 0, 1))
    assert float(found @ (of(1, 1, 1) * 0.5 - of(0, 0, 1))) == pytest.approx(0, abs=1e-6)


def test_gem_with_two_memories_by_hand() -> None:
    # orthogonal: each removes its own part; one that agrees removes none
    torch.testing.assert_close(gem(of(-1, -2, 3), torch.stack([of(1, 0, 0), of(0, 4, 0)])), of(0, 0, 3))
    torch.testing.assert_close(gem(of(1, -2, 3), torch.stack([of(1, 0, 0), of(0, 4, 0)])), of(1, 0, 3))
    # opposing: no part along either is allowed
    torch.testing.assert_close(gem(of(-1, -2, 3), torch.stack([of(1, 0, 0), of(-3, 0, 0)])), of(0, -2, 3))
    # conflicts with (1, 0) only; without that part it does not conflict with (1, -1) either
    torch.testing.assert_close(gem(of(-2, -1), torch.stack([of(1, 0), of(1, -1)])), of(0, -1))


@pytest.mark.parametrize("memories", [1, 2, 4])
def test_gem_finds_the_nearest_gradient_of_all(memories: int) -> None:
    generator = torch.Generator().manual_seed(memories)
    for _ in range(20):
        gradient, memory = torch.randn(6, generator=generator), torch.randn(memories, 6, generator=generator)
        found = gem(gradient, memory)
        assert bool((memory @ found > -1e-4).all())
        torch.testing.assert_close(found, nearest(gradient, memory), atol=1e-3, rtol=0)


@pytest.mark.parametrize("mean", [True, False])
def test_the_old_loss_does_not_rise_along_a_projected_gradient(llama: ModelFiles, mean: bool) -> None:
    trainee = random_adapter(trainee_of(llama), 1)
    memories = [imitated(3, seed=1), imitated(4, seed=2)]

    def old_gradient(lessons: list[object]) -> Tensor:
        logp = torch.cat([plain_logprobs(plain_of(trainee), *turn, 1.0) for one in lessons for turn in one.turns])  # type: ignore[attr-defined]
        (-logp.mean()).backward()
        return trainee.take_gradient()

    old = [old_gradient(list(memory)) for memory in memories]
    against = -old[0] - 0.3 * old[1]
    found = gradient_projection(memories, mean=mean, temperature=1.0, budget_tokens=20)(trainee, against)
    assert float(against @ (old[0] + old[1])) < 0
    expected = a_gem(against, (old[0] + old[1]) / 2) if mean else nearest(against, torch.stack(old))
    torch.testing.assert_close(found, expected, atol=2e-3 * float(against.norm()), rtol=0)
    for one in [old[0] + old[1]] if mean else old:
        assert float(found @ one) > -1e-3 * float(one.norm() * against.norm())
    assert not trainee.take_gradient().any()  # its own gradient is not left behind
