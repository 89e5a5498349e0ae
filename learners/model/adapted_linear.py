"""Linear layers that carry a LoRA adapter beside their weights: y = [x, xA'] [W, sB]'.

One product gives both the layer and its adapter, and another the gradients by x and by xA'. The base weights are never changed: W + sBA
rounded to bfloat16 would lose most of what an adapter changes. Layers with the same input (queries, keys and values of a block; the two
halves of its MLP) are one group with one buffer `[W, room]`. The last columns of the buffer hold the scaled up matrices of the adapter in
use, block by block; a plain layer is a view of the buffer without them. So W exists once, and exchanging adapters writes only the columns.
The layers of attention are held and multiplied in float32: outputs rounded to bfloat16 would take most of the precision of log-probs and
gradients. The products of the gradient are in the model's precision everywhere.

Axes: N tokens, I input features, O output features of a group, R the ranks of the group's adapters together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perdure.learners.weights.weight_sets import LoraPair


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The adapter of one layer, ready for use: its parts in the precision of the products."""

    down_RI: Tensor
    up_OR: Tensor
    """Scaled."""
    trained: LoraPair | None
    """The pair that gets the gradients, if it is in training."""


def columns_of(pair: LoraPair, dtype: torch.dtype, device: torch.device) -> Columns:
    """Cast a pair to the precision of the products. It is in training if it requires gradients."""
    down = pair.down_RI.detach().to(device, dtype, copy=True)
    up = (pair.up_OR.detach().float() * pair.scale).to(device, dtype)
    return Columns(down_RI=down, up_OR=up, trained=pair if pair.down_RI.requires_grad or pair.up_OR.requires_grad else None)


class AdaptedLinear(nn.Module):
    """One layer of a group. `weight` is a view of the group's buffer, unless it was replaced (`LinearGroup.use_own_weights`)."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_OI, requires_grad=False)
        self.bias = None if bias_O is None else nn.Parameter(bias_O, requires_grad=False)
        self.group = LinearGroup([self])

    @property
    def shape(self) -> tuple[int, int]:
        """Output and input features."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and of the products with them."""
        return self.weight.dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.group.output(self, x)


class LinearGroup:
    """Layers with the same input, computed by one product; `gradient_dtype` is for the products of the gradient, by default that of the
    weights."""

    def __init__(self, layers: Sequence[AdaptedLinear], *, is_exact: bool = False, gradient_dtype: torch.dtype | None = None) -> None:
        self.layers = tuple(layers)
        self.gradient_dtype = gradient_dtype or layers[0].weight.dtype
        self.sizes = [len(layer.weight) for layer in layers]
        self.features = layers[0].weight.shape[1]
        self.columns: Sequence[Columns | None] = (None,) * len(layers)
        self._rank = 0
        weight_OI = torch.cat([layer.weight.data for layer in layers]) if len(layers) > 1 else layers[0].weight.data
        self._buffer_OIR = weight_OI.float() if is_exact else weight_OI
        self._down_RI = self._buffer_OIR[:0]
        self._has_own_weights = False
        self._input: Tensor | None = None
        self._outputs: dict[AdaptedLinear, Tensor] = {}
        for layer in layers:
            layer.group = self
        self._point()

    def use(self, columns: Sequence[Columns | None]) -> None:
        """Compute with the base weights and these adapters, one for each layer."""
        if columns is self.columns and not self._has_own_weights:
            return
        self._input, self._outputs = None, {}
        if self._has_own_weights:
            self._has_own_weights = False
            self._point()
        self.columns = columns
        used = [one for one in columns if one is not None]
        self._rank = sum(len(one.down_RI) for one in used)
        if not used:
            return
        width = self.features + self._rank
        if self._buffer_OIR.shape[1] < width:
            wider = self._buffer_OIR.new_empty(len(self._buffer_OIR), width)
            wider[:, : self.features] = self._buffer_OIR[:, : self.features]
            self._buffer_OIR = wider
            self._point()
        self._down_RI = used[0].down_RI if len(used) == 1 else torch.cat([one.down_RI for one in used])
        room = self._buffer_OIR[:, self.features : width]
        if len(self.layers) > 1:
            room.zero_()
        row = column = 0
        for size, one in zip(self.sizes, columns, strict=True):
            if one is not None:
                room[row : row + size, column : column + len(one.down_RI)] = one.up_OR
                column += len(one.down_RI)
            row += size

    def use_own_weights(self) -> None:
        """Compute with each layer's own `weight`, which may be replaced or trained, until the next `use`."""
        self.use((None,) * len(self.layers))
        self._has_own_weights = True

    def output(self, layer: AdaptedLinear, x: Tensor) -> Tensor:
        """The output of one layer. The first layer of the group that asks computes the product; the others take their parts."""
        if self._has_own_weights:
            return nn.functional.linear(x.to(layer.weight.dtype), layer.weight, layer.bias)
        if len(self.layers) == 1:
            return self._with_bias(layer, self._product(x))
        if self._input is not x or layer not in self._outputs:
            self._input = x
            self._outputs = dict(zip(self.layers, self._product(x).split(self.sizes, -1), strict=True))
        y = self._outputs.pop(layer)
        if not self._outputs:
            self._input = None
        return self._with_bias(layer, y)

    def widened(self, x_NI: Tensor) -> Tensor:
        """[x, xA'] in the precision of the weights."""
        wide = self._buffer_OIR.new_empty(len(x_NI), self.features + self._rank)
        wide[:, : self.features] = x_NI
        if self._rank:
            torch.mm(wide[:, : self.features], self._down_RI.t(), out=wide[:, self.features :])
        return wide

    @property
    def weights(self) -> Tensor:
        """[W, sB]."""
        return self._buffer_OIR[:, : self.features + self._rank]

    @property
    def down(self) -> Tensor:
        """The down matrices of all adapters, one below the other."""
        return self._down_RI

    def _product(self, x: Tensor) -> Tensor:
        pairs = [one.trained for one in self.columns if one is not None and one.trained is not None]
        parts = [part for pair in pairs for part in (pair.down_RI, pair.up_OR)]
        y_NO: Tensor = _Beside.apply(self, x.reshape(-1, self.features), *parts)  # type: ignore[no-untyped-call]
        return y_NO.view(*x.shape[:-1], -1)

    def _with_bias(self, layer: AdaptedLinear, y: Tensor) -> Tensor:
        return y if layer.bias is None else y + layer.bias

    def _point(self) -> None:
        """Make each layer's weight a view of the buffer."""
        for layer, rows in zip(self.layers, self._buffer_OIR.split(self.sizes), strict=True):
            layer.weight.data = rows[:, : self.features]


class _Beside(torch.autograd.Function):
    """[x, xA'] [W, sB]', with gradients by x and by the matrices of the adapters in training.

    The group must have the same adapters in use when the gradient is computed.
    """

    @staticmethod
    def forward(ctx: Any, group: LinearGroup, x_NI: Tensor, *parts: Tensor) -> Tensor:
        wide = group.widened(x_NI)
        ctx.group, ctx.columns, ctx.dtype = group, group.columns, x_NI.dtype
        ctx.save_for_backward(wide.to(group.gradient_dtype))
        return wide @ group.weights.t()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        group: LinearGroup = ctx.group
        if group.columns is not ctx.columns:
            raise RuntimeError("another adapter is in use than in the forward pass")
        (wide,) = ctx.saved_tensors
        I, dy_NO, weights = group.features, grads[0].to(wide.dtype), group.weights.to(wide.dtype)  # noqa: E741
        dx_NI = None
        if ctx.needs_input_grad[1]:
            d_NIR = dy_NO @ weights
            dx_NI, dxa_NR = d_NIR[:, :I], d_NIR[:, I:]
            if len(group.down):
                dx_NI = torch.addmm(dx_NI, dxa_NR, group.down.to(wide.dtype))
            dx_NI = dx_NI.to(ctx.dtype)
        else:
            dxa_NR = dy_NO @ weights[:, I:]
        return None, dx_NI, *_of_parts(group, wide, dy_NO, dxa_NR)


def _of_parts(group: LinearGroup, wide: Tensor, dy_NO: Tensor, dxa_NR: Tensor) -> list[Tensor]:
    """The gradients of the matrices in training, layer by layer: of down, then of up."""
    found = []
    I, row, column = group.features, 0, 0  # noqa: E741
    for size, one in zip(group.sizes, group.columns, strict=True):
        if one is not None:
            rank = len(one.down_RI)
            if one.trained is not None:
                down = dxa_NR[:, column : column + rank].t() @ wide[:, :I]
                up = dy_NO[:, row : row + size].t() @ wide[:, I + column : I + column + rank]
                found += [down.to(one.trained.down_RI.dtype), up.to(one.trained.up_OR.dtype) * one.trained.scale]
            column += rank
        row += size
    return found
