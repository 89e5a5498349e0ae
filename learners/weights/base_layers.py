"""The layers of a base model that an adapter can change, by name and shape. No weights are read: the model is built on torch's meta device.

These are the names under which the engine and the learner know the layers, also if the files name their tensors otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from perdure.learners.weights.base_models import ModelFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLayers:
    """All linear layers of the part that reads and writes text, but the head."""

    shapes: Mapping[str, tuple[int, int]]
    """Output and input features by module name."""
    transposed: frozenset[str]
    """Those that store their weights as (in, out): Conv1D, as in GPT-2."""
    elsewhere: frozenset[str]
    """Linear layers of other parts, such as one for images: no adapter of text needs them."""


@lru_cache(maxsize=8)
def linear_layers(base: ModelFiles) -> LinearLayers:
    """The linear layers of a base model."""
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base.path, trust_remote_code=False), trust_remote_code=False)
    head, of_text = net.get_output_embeddings(), frozenset(map(id, net.get_decoder().modules()))
    found = {name: module for name, module in net.named_modules() if isinstance(module, nn.Linear | Conv1D) and module is not head}
    shapes: dict[str, tuple[int, int]] = {}
    for name, module in found.items():
        if id(module) in of_text:
            first, second = module.weight.shape
            shapes[name] = (second, first) if isinstance(module, Conv1D) else (first, second)
    return LinearLayers(
        shapes=shapes,
        transposed=frozenset(name for name in shapes if isinstance(found[name], Conv1D)),
        elsewhere=frozenset(found.keys() - shapes.keys()),
    )
