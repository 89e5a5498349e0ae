"""Weights of a version or a step: a LoRA adapter, or tensors that replace those of the base model; and many such sets side by side.

An adapter is merged from the pristine base in fp32 and cast once; a merge is never undone. Each set of merged weights is a table of
tensors beside the one base model, so that changing the sampler is a change of pointers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MAX_RANK = 256
"""Of an adapter, that of stacked ones included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraPair:
    """One adapted linear layer: `W + scale * up @ down`."""

    down_RI: Tensor
    """Rank x input features."""
    up_OR: Tensor
    """Output features x rank."""
    scale: float


Weights = Mapping[str, LoraPair | Tensor]
"""By name of a parameter of the base model, such as `model.layers.0.mlp.up_proj.weight`: what adapts it, or what stands in its place."""


class WeightBank:
    """The base model and the merged weights of each sampler, one of them in use."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._pristine: dict[str, Tensor] = {}
        self._merged: dict[str, dict[str, Tensor]] = {"": {}}
        self._in_use = ""

    def add(self, key: str, weights: Weights) -> None:
        """Merge weights under a key that was never used before. Raises `ValueError` for one that is in use."""
        if key in self._merged:
            raise ValueError(f"weights {key!r} are loaded already")
        merged = {}
        with torch.no_grad():
            for name, given in weights.items():
                base = self._pristine.setdefault(name, self._model.get_parameter(name).data)
                merged[name] = merge(base, given)
        self._merged[key] = merged

    def remove(self, key: str) -> None:
        """Forget merged weights; those in use give way to the base."""
        if key == self._in_use:
            self.use("")
        del self._merged[key]

    def use(self, key: str) -> None:
        """Make the model compute with these weights; '' is the base."""
        if key == self._in_use:
            return
        merged = self._merged[key]
        for name, base in self._pristine.items():
            self._model.get_parameter(name).data = merged.get(name, base)
        self._in_use = key

    def __contains__(self, key: str) -> bool:
        return key in self._merged


def merge(base: Tensor, given: LoraPair | Tensor) -> Tensor:
    """What stands in place of a parameter of the base model, in its type and on its device; always a new tensor."""
    if isinstance(given, Tensor):
        return given.to(base.device, base.dtype, copy=True)
    update = given.up_OR.float() @ given.down_RI.float()
    return (base.float() + given.scale * update.to(base.device)).to(base.dtype)
