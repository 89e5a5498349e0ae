"""Rows of transformers' caches: what a model keeps of a sequence that it has read, to continue it.

That is keys and values of each attention layer, and the states of each recurrent or convolution layer. Rows are taken out of a cache and
put together to another one. Keys and values of shorter rows are padded on the left, where the attention mask hides them; states have no
length. Left out: caches of a fixed size, and quantized ones.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer

from perdure.memory.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CachedRow:
    """One row of a cache, which holds `length` tokens of its sequence, the last ones in the cache."""

    cache: DynamicCache
    place: int
    length: int


def require_known_layers(cache: DynamicCache) -> None:
    """Raise `InputError` if a model keeps something else than keys, values and states."""
    for layer in cache.layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) and not isinstance(layer, LinearAttentionLayer):
            raise InputError(f"the model stores its past as a {type(layer).__name__}, which Perdure does not support: choose another model")


def joined(rows: Sequence[CachedRow]) -> DynamicCache:
    """A new cache with copies of these rows, in their order."""
    first = rows[0].cache
    cache = copy.copy(first)
    longest = max(row.length for row in rows)
    one_source = all(row.cache is first for row in rows)
    cache.layers = []
    for n, layer in enumerate(first.layers):
        made: Any = copy.copy(layer)
        if isinstance(layer, DynamicLayer) and layer.is_initialized:
            made.keys, made.values = _keys_and_values(rows, n, longest, one_source)
            if isinstance(layer, DynamicSlidingWindowLayer):
                made.cumulative_length = longest
        if isinstance(layer, LinearAttentionLayer):
            for name in _FLAGS:
                setattr(made, name, dict(getattr(layer, name)))
            for name in ("conv_states", "recurrent_states"):
                states = {index: _states(rows, n, name, index, one_source) for index in getattr(layer, name)}
                setattr(made, name, states)
        cache.layers.append(made)
    return cache


_FLAGS = ("is_conv_states_initialized", "is_recurrent_states_initialized", "has_previous_state", "conv_kernel_size")


def size_bytes(cache: DynamicCache) -> int:
    """Of all tensors."""
    return sum(tensor.nbytes for layer in cache.layers for tensor in _tensors(layer))


def _tensors(layer: Any) -> list[Tensor]:
    found = []
    if isinstance(layer, DynamicLayer) and layer.is_initialized:
        found += [layer.keys, layer.values]
    if isinstance(layer, LinearAttentionLayer):
        found += [*layer.conv_states.values(), *layer.recurrent_states.values()]
    return [one for one in found if one is not None]


def _keys_and_values(rows: Sequence[CachedRow], n: int, longest: int, one_source: bool) -> tuple[Tensor, Tensor]:
    """Of layer `n`, `(R, H, T, D)`, where T is as many of the last tokens as the layer keeps."""
    layer: Any = rows[0].cache.layers[n]
    most = layer.sliding_window - 1 if isinstance(layer, DynamicSlidingWindowLayer) else longest
    T = min(most, longest)
    if one_source and layer.keys.shape[2] >= T:
        place_R = torch.tensor([row.place for row in rows], device=layer.keys.device)
        keys, values = (part[:, :, part.shape[2] - T :].index_select(0, place_R) for part in (layer.keys, layer.values))
        return keys, values
    parts: list[list[Tensor]] = [[], []]
    for row in rows:
        one: Any = row.cache.layers[n]
        own = min(most, row.length)
        for part, whole in zip(parts, (one.keys, one.values), strict=True):
            part.append(pad(whole[row.place : row.place + 1, :, whole.shape[2] - own :], (0, 0, T - own, 0)))
    return torch.cat(parts[0]), torch.cat(parts[1])


def _states(rows: Sequence[CachedRow], n: int, name: str, index: int, one_source: bool) -> Tensor | None:
    whole = getattr(rows[0].cache.layers[n], name)[index]
    if whole is None:
        return None
    if one_source:
        chosen: Tensor = whole.index_select(0, torch.tensor([row.place for row in rows], device=whole.device))
        return chosen
    return torch.cat([getattr(row.cache.layers[n], name)[index][row.place : row.place + 1] for row in rows])
