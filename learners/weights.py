"""Merged weights: what a version or a step samples with.

An adapter is merged from the pristine base in fp32 and cast once; a merge is never undone. Each set of merged weights is a table of
tensors beside the one base model, so that changing the sampler is a change of pointers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraPair:
    """One adapted linear layer: `W + scale * up @ down`."""

    down_RI: Tensor
    """Rank x input features."""
    up_OR: Tensor
    """Output features x rank."""
    scale: float


LoraTable = Mapping[str, LoraPair]
"""Adapted layers by module name, as `model.get_submodule` takes it."""


class WeightBank:
    """The base model and the merged weights of each sampler, one of them in use."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._pristine: dict[str, Tensor] = {}
        self._merged: dict[str, dict[str, Tensor]] = {"": {}}
        self._in_use = ""

    def add(self, key: str, table: LoraTable) -> None:
        """Merge an adapter under a key that was never used before."""
        if key in self._merged:
            raise ValueError(f"weights {key!r} are loaded already")
        merged = {}
        with torch.no_grad():
            for name, pair in table.items():
                base = self._pristine.setdefault(name, self._layer(name).weight.data)
                update = pair.up_OR.float() @ pair.down_RI.float()
                merged[name] = (base.float() + pair.scale * update.to(base.device)).to(base.dtype)
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
            self._layer(name).weight.data = merged.get(name, base)
        self._in_use = key

    def __contains__(self, key: str) -> bool:
        return key in self._merged

    def _layer(self, name: str) -> nn.Linear:
        layer = self._model.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"{name} is {type(layer).__name__}: only linear layers can be adapted")
        return layer
