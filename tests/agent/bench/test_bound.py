"""The operations of matrix products, by hand for a model of small numbers, and as torch counts them for a real one."""

from __future__ import annotations

import time

import pytest
import torch
from tests.learners.conftest import engine_of, random_adapter, trainee_of
from torch.utils.flop_counter import FlopCounterMode

from perdure.agent.bench.bound import ModelPass, ModelSize, flop_between, product_speed, size_of, watch_passes
from perdure.envs.policy import Request
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.records import StepRef

SIZE = ModelSize(linear=100, adapters=10, heads=7, vocabulary=1000)


def test_operations_of_a_pass_and_of_its_gradient_by_hand() -> None:
    assert SIZE.forward_flop(3, 6, 2) == 2 * 3 * 110 + 4 * 6 * 7 + 2 * 2 * 1000
    assert SIZE.forward_flop(3, 6, 0, adapted=False) == 2 * 3 * 100 + 4 * 6 * 7
    assert SIZE.gradient_flop(3, 6, 2) == 2 * 3 * 110 + 2 * 3 * 10 + 8 * 6 * 7 + 2 * 2 * 1000


def test_only_passes_within_a_span_count_and_only_decoding_has_rows_of_its_own() -> None:
    kinds = ("decoding", "prefill", "reference", "training")
    passes = [ModelPass(at=float(n), tokens=3, keys=torch.tensor(6), kind=kind) for n, kind in enumerate(kinds)]
    rows = 2 * 3 * 1000
    assert flop_between(passes, SIZE, 0, 1) == SIZE.forward_flop(3, 6, 0) + rows
    assert flop_between(passes, SIZE, 1, 2) == SIZE.forward_flop(3, 6, 0)
    assert flop_between(passes, SIZE, 2, 3) == SIZE.forward_flop(3, 6, 0, adapted=False)
    assert flop_between(passes, SIZE, 3, 9) == SIZE.forward_flop(3, 6, 0) + SIZE.gradient_flop(3, 6, 0)


def test_the_passes_of_an_engine_are_seen_with_what_they_attend_to(llama: ModelFiles) -> None:
    engine = engine_of(llama)
    passes = watch_passes(engine.model)
    engine.stop_ids = frozenset()
    engine.load(StepRef(1, 0), {})
    requests = [Request(prompt_ids=prompt, max_tokens=3, temperature=1.0) for prompt in ((5, 6, 7), (5, 6, 8))]
    started = time.time()
    engine.generate(StepRef(1, 0), requests)
    assert [(one.kind, one.tokens, int(one.keys)) for one in passes] == [
        ("prefill", 4, 1 + 2 + 3 + 3),
        ("decoding", 2, 4 + 4),
        ("decoding", 2, 5 + 5),
    ]
    assert all(started <= one.at <= time.time() for one in passes)


def test_operations_agree_with_those_that_torch_counts(llama: ModelFiles) -> None:
    """Attention aside, which a tree computes in padded blocks, and without the gradient by the first inputs, which nothing needs."""
    trainee = random_adapter(trainee_of(llama), 1)
    rank = len(next(iter(trainee.weights().values())).down_RI)  # type: ignore[union-attr]
    passes = watch_passes(trainee.model)
    turns = [(tuple(range(5, 25)), (30, 31, 32, 33)), (tuple(range(5, 25)), (40, 41, 42))]
    size = size_of(trainee.model, rank)
    assert size.linear == sum(layer.weight.numel() for layer in trainee.model.layers.values() if isinstance(layer.weight, torch.Tensor))
    with FlopCounterMode(display=False) as counted:
        tree = trainee.tree(turns)
        trainee.predict(tree).logprobs(1.0).sum().backward()
    [one] = passes
    assert (one.kind, one.tokens) == ("training", 20 + 3 + 2)
    rows = len(tree.node_K)
    expected = one.flop(size) + size.forward_flop(0, 0, rows) + size.gradient_flop(0, 0, rows) - 12 * int(one.keys) * size.heads
    products = counted.get_flop_counts()["Global"]
    assert sum(products.get(op, 0) for op in (torch.ops.aten.mm, torch.ops.aten.addmm)) == pytest.approx(expected, rel=0.1)


def test_a_larger_product_is_not_needed_to_measure_a_machine() -> None:
    assert 1e8 < product_speed(torch.float32, "cpu") < 1e15
    assert torch.get_float32_matmul_precision() == "highest"
