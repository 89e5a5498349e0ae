"""An adapter beside a layer whose weights cannot share a buffer with it, such as a 4-bit layer: y = layer(x) + (x A') (sB)'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from perdure.learners.model.adapted_linear import Columns


class BesideLayer(nn.Module):
    """The layer with at most one adapter, by two products; it is a group of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.columns: Columns | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Output and input features."""
        return cast(int, self.inner.out_features), cast(int, self.inner.in_features)

    @property
    def group(self) -> BesideLayer:
        return self

    @property
    def layers(self) -> tuple[BesideLayer]:
        return (self,)

    @property
    def dtype(self) -> torch.dtype:
        """Of the adapter; each product is in the precision that the layer gives."""
        return torch.float32

    def use(self, columns: Sequence[Columns | None]) -> None:
        """Compute with this adapter."""
        [self.columns] = columns

    def use_own_weights(self) -> None:
        """Does nothing: the layer has its own weights."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        if self.columns is None:
            return y
        pair = self.columns.trained
        if pair is None:
            return y + (x.to(y.dtype) @ self.columns.down_RI.t().to(y.dtype)) @ self.columns.up_OR.t().to(y.dtype)
        return y + ((x.float() @ pair.down_RI.t()) @ pair.up_OR.t() * pair.scale).to(y.dtype)
