"""Weights of a version or a step: a LoRA adapter, or whole tensors.

An adapter is merged into base weights, in float32, only for a model that is exported or tuned in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

MAX_RANK = 256
"""Of an adapter, also of stacked ones together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraPair:
    """LoRA of one linear layer: `W + scale * up @ down`."""

    down_RI: Tensor
    """Rank x input features."""
    up_OR: Tensor
    """Output features x rank."""
    scale: float


Weights = Mapping[str, LoraPair | Tensor]
"""By the name of a base model's parameter, such as `model.layers.0.mlp.up_proj.weight`: its LoRA, or a tensor that replaces it."""


def merge(base: Tensor, given: LoraPair | Tensor, *, transposed: bool = False) -> Tensor:
    """A base model's parameter with these weights, in its dtype and on its device; always a new tensor.

    The sum is computed in float32. `transposed` is for a layer whose weight has the shape (in, out).
    """
    if isinstance(given, Tensor):
        return given.to(base.device, base.dtype, copy=True)
    update = given.scale * (given.up_OR.float() @ given.down_RI.float()).to(base.device)
    return (base.float() + (update.t() if transposed else update)).to(base.dtype)


def merge_into(model: nn.Module, weights: Weights) -> None:
    """Merge weights into a transformers model as it was loaded."""
    with torch.no_grad():
        for name, given in weights.items():
            parameter = model.get_parameter(name)
            is_transposed = isinstance(model.get_submodule(name.rpartition(".")[0]), Conv1D)
            parameter.copy_(merge(parameter, given, transposed=is_transposed))
