"""The machine's own bound: the seconds that the matrix products of some work would take at the speed of a large product.

N tokens attend to S keys in all (a token to as many as its position, and to itself), and K rows predict a token. The model has P weights
in its linear layers, A in the adapters beside them, V in its head, and E features of all attention heads of all layers. Then the products
have this many floating-point operations:

    forward     2 N (P + A)         + 4 S E + 2 K V
    gradient    2 N (P + A) + 2 N A + 8 S E + 2 K V

A gradient has products by the inputs of all layers, and by the matrices of adapters; the base weights have none. References are computed
without adapters. Nothing is counted twice that a sequence shares with others. Left out: norms, softmax, sampling, the optimiser, and
reading the weights, which is what bounds decoding: a step reads all of them for a few rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from perdure.learners.model.adapted_model import AdaptedModel

SIZES = {"cpu": 2048, "cuda": 8192}
"""Rows, columns and depth of the large product on a device."""
PRODUCTS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """What one token, key and row costs: P, A, E and V of the formula."""

    linear: int
    adapters: int
    heads: int
    vocabulary: int

    def forward_flop(self, tokens: int, keys: int, rows: int, *, adapted: bool = True) -> int:
        """Of a pass without gradients."""
        return 2 * tokens * (self.linear + adapted * self.adapters) + 4 * keys * self.heads + 2 * rows * self.vocabulary

    def gradient_flop(self, tokens: int, keys: int, rows: int) -> int:
        """Of the gradient alone, beside its forward pass."""
        return 2 * tokens * (self.linear + 2 * self.adapters) + 8 * keys * self.heads + 2 * rows * self.vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPass:
    """One pass through the layers."""

    at: float
    """Seconds since the epoch."""
    tokens: int
    keys: Tensor
    """How many all tokens attend to together; `()`."""
    kind: str
    """decoding, prefill, reference or training."""

    def flop(self, size: ModelSize) -> int:
        """Of this pass and its gradient, with the head of decoding only: of others it is not known which rows predict."""
        keys, is_decoding = int(self.keys), self.kind == "decoding"
        flop = size.forward_flop(self.tokens, keys, is_decoding * self.tokens, adapted=self.kind != "reference")
        return flop + (size.gradient_flop(self.tokens, keys, 0) if self.kind == "training" else 0)


def size_of(model: AdaptedModel, rank: int) -> ModelSize:
    """Of a model with adapters of this rank on all of its layers."""
    config, shapes = model.net.config, [layer.shape for layer in model.layers.values()]
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelSize(
        linear=sum(map(prod, shapes)),
        adapters=rank * sum(map(sum, shapes)),
        heads=config.num_hidden_layers * config.num_attention_heads * width,
        vocabulary=model.head.weight_VC.numel(),
    )


def watch_passes(model: AdaptedModel) -> list[ModelPass]:
    """A list to which every pass of this model is added from now on."""
    passes: list[ModelPass] = []

    def record(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        memory, positions = named.get("memory"), named["position_ids"]
        sampling, learning = ("prefill", "decoding"), ("reference", "training")
        kind = learning[torch.is_grad_enabled()] if memory is None else sampling[memory.steps > 0]
        passes.append(ModelPass(at=time.time(), tokens=positions.numel(), keys=(positions + 1).sum(), kind=kind))

    model.net.base_model.register_forward_pre_hook(record, with_kwargs=True)
    return passes


def flop_between(passes: Iterable[ModelPass], size: ModelSize, begin: float, end: float) -> int:
    """Of the passes in this span of time."""
    return sum(one.flop(size) for one in passes if begin <= one.at < end)


def product_speed(dtype: torch.dtype, device: str) -> float:
    """Floating-point operations per second of a large product; the fastest of several, because other load only slows them."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    size, seconds = SIZES[device], []
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    for _ in range(PRODUCTS):
        started = time.perf_counter()
        float((left @ right)[0, 0])  # reading a value waits for a GPU
        seconds.append(time.perf_counter() - started)
    torch.set_float32_matmul_precision(before)
    return 2 * size**3 / min(seconds)
