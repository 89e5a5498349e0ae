"""Weights of a version or a step, as a LoRA adapter or as whole tensors, and several of them merged side by side.

An adapter is merged into the original base weights in fp32 and cast once; a merge is never undone. Each sampler has its own merged
tensors, so switching between samplers only changes pointers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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


class WeightBank:
    """A model and the merged weights of each sampler, one of which the model uses."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._pristine: dict[str, Tensor] = {}
        self._merged: dict[str, dict[str, Tensor]] = {"": {}}
        self._in_use = ""

    def add(self, key: str, weights: Weights) -> None:
        """Merge weights and store them under a key. Raises `ValueError` if the key is taken."""
        if key in self._merged:
            raise ValueError(f"weights {key!r} are already loaded")
        merged = {}
        with torch.no_grad():
            for name, given in weights.items():
                base = self._pristine.setdefault(name, self._model.get_parameter(name).data)
                merged[name] = merge(base, given)
        self._merged[key] = merged

    def remove(self, key: str) -> None:
        """Remove merged weights; if they are in use, the model returns to the base."""
        if key == self._in_use:
            self.use("")
        del self._merged[key]

    def use(self, key: str) -> None:
        """Make the model use these weights; '' is the base."""
        if key == self._in_use:
            return
        merged = self._merged[key]
        for name, base in self._pristine.items():
            self._model.get_parameter(name).data = merged.get(name, base)
        self._in_use = key

    def __contains__(self, key: str) -> bool:
        return key in self._merged


def merge(base: Tensor, given: LoraPair | Tensor) -> Tensor:
    """A base model's parameter with these weights, in its dtype and on its device; always a new tensor."""
    if isinstance(given, Tensor):
        return given.to(base.device, base.dtype, copy=True)
    update = given.up_OR.float() @ given.down_RI.float()
    return (base.float() + given.scale * update.to(base.device)).to(base.dtype)
