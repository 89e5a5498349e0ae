"""How a model is computed: as a token tree, or by rows.

A token tree (`tree.py`) needs layers that attend and do nothing else: what a token gets from earlier ones is then a sum over keys, which
may lie anywhere. Recurrent and convolution layers have a state that each token changes, and some kinds of attention have more than a
softmax over keys. Such models are computed one row a sequence, by their own attention and transformers' caches (`rows.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from perdure.memory.errors import InputError

_TREE_LAYERS = {"full_attention", "sliding_attention"}
_SINKS = ("sinks", "s_aux")
"""Parameters of attention that take a part of the softmax, as in gpt-oss."""
_CHANGING_ROPE = ("longrope", "dynamic")
"""Positions that are encoded differently as soon as a sequence is longer than those of the first training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """`context_limit` is the longest sequence, in tokens, that is computed as the model itself does."""

    context_limit: int
    window: int | None
    """Tokens that the layers with a sliding window attend to; None if there are none."""
    rows_because: str
    """What a token tree cannot compute; empty if one can compute the model."""


def architecture_of(config: Any, parameters: Iterable[str] = ()) -> Architecture:
    """How a model with this configuration of its text, and parameters of these names, is computed.

    Raises `InputError` for a model without attention, and for one that does not say how long its sequences may be.
    """
    if not getattr(config, "num_attention_heads", None):
        raise InputError(f"a {config.model_type} model has no attention, which Perdure does not support: choose another model")
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - _TREE_LAYERS)
    if not kinds and getattr(config, "attn_logit_softcapping", None):
        kinds = ["capped attention logits"]
    if not kinds and any(name.rpartition(".")[2] in _SINKS for name in parameters):
        kinds = ["attention sinks"]
    return Architecture(context_limit=_positions(config), window=_window(config), rows_because=", ".join(kinds))


def _window(config: Any) -> int | None:
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()) or not hasattr(config, "layer_types"):
        window: int | None = getattr(config, "sliding_window", None)
        return window
    return None


def _positions(config: Any) -> int:
    longest = getattr(config, "max_position_embeddings", None)
    if not isinstance(longest, int):
        raise InputError(
            f"the configuration of this {config.model_type} model does not say how long a sequence may be: "
            "set max_position_embeddings in its config.json"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    for one in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if one.get("rope_type") in _CHANGING_ROPE:
            first = one.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
            longest = min(longest, first or longest)
    return longest
