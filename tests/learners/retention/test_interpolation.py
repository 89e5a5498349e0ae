"""Interpolation of weights: of the products, exact if the rank allows, otherwise the best approximation of that rank."""

from __future__ import annotations

import pytest
import torch
from tests.learners.conftest import copied, merged_logprobs, random_adapter, trainee_of
from tests.learners.retention.lessons import imitated
from torch import Tensor

from perdure.learners.retention.interpolation import interpolate
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import LoraPair, Weights, merge
from perdure.memory.errors import InputError


def pair(out: int, rank: int, into: int, seed: int, scale: float = 2.0) -> LoraPair:
    generator = torch.Generator().manual_seed(seed)
    return LoraPair(down_RI=torch.randn(rank, into, generator=generator), up_OR=torch.randn(out, rank, generator=generator), scale=scale)


def product(one: LoraPair | Tensor) -> Tensor:
    assert isinstance(one, LoraPair)
    return one.scale * one.up_OR @ one.down_RI


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_products_are_interpolated_exactly_if_the_rank_is_large_enough(share: float) -> None:
    """A product of rank 2 and one of rank 2 in a pair of rank 4."""
    first, second = pair(12, 2, 10, 0, scale=3.0), pair(12, 4, 10, 1)
    second = LoraPair(down_RI=second.down_RI, up_OR=torch.cat([second.up_OR[:, :2], torch.zeros(12, 2)], 1), scale=2.0)
    found = interpolate({"w": first}, {"w": second}, share)["w"]
    assert isinstance(found, LoraPair)
    assert (found.down_RI.shape, found.up_OR.shape, found.scale) == ((4, 10), (12, 4), 2.0)
    torch.testing.assert_close(product(found), (1 - share) * product(first) + share * product(second), atol=1e-4, rtol=1e-4)


def test_else_it_is_the_best_approximation_of_that_rank() -> None:
    first, second = pair(12, 3, 10, 0), pair(12, 3, 10, 1)
    whole = 0.4 * product(first) + 0.6 * product(second)
    found = product(interpolate({"w": first}, {"w": second}, 0.6)["w"])
    left, singular, right = torch.linalg.svd(whole)
    best = left[:, :3] * singular[:3] @ right[:3]
    torch.testing.assert_close(found, best, atol=1e-4, rtol=1e-4)
    assert float((found - whole).norm()) == pytest.approx(float(singular[3:].norm()), rel=1e-3)


def test_a_layer_narrower_than_the_rank_keeps_the_shape_of_the_others() -> None:
    first, second = pair(3, 8, 10, 0), pair(3, 8, 10, 1)
    found = interpolate({"w": first}, {"w": second}, 0.5)["w"]
    assert isinstance(found, LoraPair)
    assert (found.down_RI.shape, found.up_OR.shape) == ((8, 10), (3, 8))
    torch.testing.assert_close(product(found), 0.5 * product(first) + 0.5 * product(second), atol=1e-4, rtol=1e-4)


def test_a_layer_that_the_first_lacks_goes_part_of_the_way_from_the_base() -> None:
    second = pair(12, 3, 10, 1)
    torch.testing.assert_close(product(interpolate({}, {"w": second}, 0.3)["w"]), 0.3 * product(second))


def test_versions_are_interpolated_as_their_merged_weights_are(llama: ModelFiles) -> None:
    """A sum of rank 2 and rank 2 fits exactly into a pair of rank 4."""
    first = copied(random_adapter(trainee_of(llama, rank=2, alpha=4), 1, 0.1).weights())
    other = copied(random_adapter(trainee_of(llama, rank=2, alpha=4), 2, 0.1).weights())
    second = {
        name: LoraPair(down_RI=torch.cat([one.down_RI, other[name].down_RI]), up_OR=torch.cat([one.up_OR, other[name].up_OR], 1), scale=2.0)
        for name, one in first.items()
    }
    base = {name: parameter for name, parameter in trainee_of(llama, tuning="full").weights().items() if isinstance(parameter, Tensor)}
    between: Weights = {name: torch.lerp(merge(base[name], first[name]), merge(base[name], second[name]), 0.3) for name in first}
    turns = [turn for lesson in imitated(3) for turn in lesson.turns]
    found = merged_logprobs(llama, interpolate(first, second, 0.3), turns)
    torch.testing.assert_close(found, merged_logprobs(llama, between, turns), atol=1e-3, rtol=0)
    assert float((found - merged_logprobs(llama, second, turns)).abs().max()) > 0.05


def test_weights_tuned_in_full_are_interpolated_one_by_one() -> None:
    first, second = torch.zeros(2, 2), torch.ones(2, 2)
    torch.testing.assert_close(interpolate({"w": first}, {"w": second}, 0.25)["w"], torch.full((2, 2), 0.25))


@pytest.mark.parametrize(("first", "second"), [(torch.zeros(12, 10), None), (None, torch.zeros(12, 10))])
def test_kinds_do_not_mix(first: Tensor | None, second: Tensor | None) -> None:
    one = pair(12, 3, 10, 0)
    with pytest.raises(InputError, match="interpolate=1"):
        interpolate({"w": one if first is None else first}, {"w": one if second is None else second}, 0.5)
