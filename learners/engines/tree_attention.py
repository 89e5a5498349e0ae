"""Attention for decoding from a token tree: keys and values of the prefilled tree are shared by all rows, those of sampled tokens are not.

One packed sequence would make every row attend, masked, to every token that other rows sampled; so the shared and the own keys and values
are stored apart. The products are in fp32 in every precision of the model: they are small. transformers calls `tree_attention` by the name
that `register` returns.

Axes: H key heads, Q query heads of each, R rows alive, S shared keys, T own keys of each row, D features of a head.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

NAME = "perdure_tree"
_ROOM = 32
"""Space is allocated for this number of decoding steps at a time."""


class TreeMemory:
    """The keys and values of every layer for one batch: those of its tree, and those of each row's own tokens."""

    def __init__(self) -> None:
        self.steps = 0
        """Decoding steps so far, the current one included; 0 while the tree is prefilled."""
        self._shared: dict[int, tuple[Tensor, Tensor]] = {}
        self._own: dict[int, tuple[Tensor, Tensor]] = {}
        self._bias_RS = torch.empty(0, 0)

    @property
    def shared_keys(self) -> int:
        return self._bias_RS.shape[1]

    def branch(self, visible_RS: Tensor) -> None:
        """Begin decoding: `visible_RS` says to which nodes of the tree each row attends."""
        self._bias_RS = torch.zeros(visible_RS.shape, device=visible_RS.device).masked_fill_(~visible_RS, -torch.inf)
        for layer, (keys, values) in self._shared.items():
            rows = len(visible_RS)
            self._own[layer] = (keys.new_empty(0, len(keys), rows, keys.shape[2]), values.new_empty(0, len(values), rows, values.shape[2]))

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these. Shared keys that no row attends to are dropped too, once they are a third of all."""
        self._own = {layer: (keys[:, :, rows], values[:, :, rows]) for layer, (keys, values) in self._own.items()}
        self._bias_RS = self._bias_RS[rows]
        needed_S = (self._bias_RS == 0).any(0)
        if int(needed_S.sum()) * 3 <= 2 * len(needed_S):
            needed = needed_S.nonzero()[:, 0]
            self._shared = {layer: (keys[:, needed], values[:, needed]) for layer, (keys, values) in self._shared.items()}
            self._bias_RS = self._bias_RS[:, needed]

    def prefill(self, layer: int, key_1HSD: Tensor, value_1HSD: Tensor) -> None:
        self._shared[layer] = (key_1HSD[0].float(), value_1HSD[0].float())

    def attend(self, layer: int, query_GRD: Tensor, key_HRD: Tensor, value_HRD: Tensor, scaling: float) -> Tensor:
        """Add one token to each row; returns the attention output of its G = H * Q query heads, `(R, G, D)`."""
        keys_THRD, values_THRD = self._grow(layer, key_HRD, value_HRD)
        keys_HSD, values_HSD = self._shared[layer]
        H, R, D = key_HRD.shape
        T, S, Q = self.steps, keys_HSD.shape[1], len(query_GRD) // H
        query_HRQD = (query_GRD.float() * scaling).view(H, Q, R, D).transpose(1, 2).contiguous()
        shared = torch.bmm(query_HRQD.view(H, R * Q, D), keys_HSD.transpose(1, 2)).view(H, R, Q, S)
        shared += self._bias_RS[:, None]
        own = torch.bmm(query_HRQD.view(H * R, Q, D), keys_THRD.view(T, H * R, D).permute(1, 2, 0))
        weights = torch.cat([shared, own.view(H, R, Q, T)], dim=-1).softmax(-1)
        read = torch.bmm(weights.view(H, R * Q, S + T)[..., :S], values_HSD).view(H * R, Q, -1)
        read += torch.bmm(weights.view(H * R, Q, S + T)[..., S:], values_THRD.view(T, H * R, -1).transpose(0, 1))
        return read.view(H, R, Q, -1).transpose(0, 1).reshape(R, H * Q, -1)

    def _grow(self, layer: int, key_HRD: Tensor, value_HRD: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self._own[layer]
        if self.steps > len(keys):
            keys = torch.cat([keys, keys.new_empty(_ROOM, *key_HRD.shape)])
            values = torch.cat([values, values.new_empty(_ROOM, *value_HRD.shape)])
            self._own[layer] = (keys, values)
        keys[self.steps - 1] = key_HRD
        values[self.steps - 1] = value_HRD
        return keys[: self.steps], values[: self.steps]


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    memory: TreeMemory | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """The attention that transformers calls, `(1, heads, tokens, D)` in and `(1, tokens, heads, D)` out; plain SDPA without a memory."""
    layer = cast(int, module.layer_idx)
    if memory is not None and memory.steps:
        return memory.attend(layer, query[0], key[0], value[0], scaling).to(query.dtype)[None], None
    if memory is not None:
        memory.prefill(layer, key, value)
    read: tuple[Tensor, None] = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, scaling=scaling, **rest)
    return read


def register() -> str:
    """Register `tree_attention` with transformers; returns its name, the model's `attn_implementation`."""
    AttentionInterface.register(NAME, tree_attention)
    return NAME
