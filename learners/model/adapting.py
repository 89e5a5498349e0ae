"""Put layers that carry adapters into a transformers model, and its parameters into the precision of their use.

Left out: adapters on experts of a mixture, whose weights are stacked in one parameter, and on parts that read images. They are used as they
are.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from perdure.learners.model.adapted_linear import AdaptedLinear, LinearGroup
from perdure.learners.model.beside import BesideLayer

CHUNK = 64
"""Tokens that a Mamba layer scans at once, at most. What it computes does not depend on it; published models have 256, which for shorter
sequences is mostly padding, and four times the memory."""


def text_of(net: Any) -> Any:
    """The part of a model that turns tokens into hidden states."""
    text = net.get_decoder()
    return net.model if text is net else text  # Llama 4 gives another name for its part than it has


def adapt(net: Any, text: Any, dtype: torch.dtype) -> tuple[dict[str, AdaptedLinear | BesideLayer], set[str]]:
    """Replace each linear layer of `text`, the part of `net` that reads text, except the head.

    Products are in `dtype`, and so are experts; all other parameters of the text are put into float32. Returns the new layers by the names
    of their weights, and the names of those that are stored as (in, out) on disk.
    """
    head = net.get_output_embeddings()
    before = next(name for name, module in net.named_modules() if module is text)
    layers: dict[str, AdaptedLinear | BesideLayer] = {}
    transposed: set[str] = set()
    experts: set[int] = set()
    for inner, module in list(text.named_modules()):
        if isinstance(chunk := getattr(module, "chunk_size", None), int):
            module.chunk_size = min(chunk, CHUNK)
        if "experts" in type(module).__name__.lower():
            experts.update(id(parameter) for parameter in module.parameters(recurse=False))
        if module is head or not isinstance(module, nn.Linear | Conv1D):
            continue
        name = f"{before}.{inner}" if before else inner
        made: AdaptedLinear | BesideLayer
        if type(module) is nn.Linear or isinstance(module, Conv1D):
            weight = module.weight.data.t() if isinstance(module, Conv1D) else module.weight.data
            made = AdaptedLinear(weight.to(dtype).contiguous(), None if module.bias is None else module.bias.data)
            if isinstance(module, Conv1D):
                transposed.add(f"{name}.weight")
            if mixes_tokens(net.get_submodule(name.rpartition(".")[0])):
                LinearGroup([made], is_exact=True)
        else:
            made = BesideLayer(module)
        parent, _, leaf = name.rpartition(".")
        setattr(net.get_submodule(parent), leaf, made)
        layers[f"{name}.weight"] = made
    matrices = {id(layer.weight) for layer in layers.values() if isinstance(layer, AdaptedLinear)}
    for parameter in (*text.parameters(), *head.parameters()):
        if id(parameter) not in matrices and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype if id(parameter) in experts else torch.float32)
    return layers, transposed


def mixes_tokens(module: nn.Module) -> bool:
    """Whether it is attention, or a recurrent layer in its place."""
    return "attention" in type(module).__name__.lower() or "cache_params" in inspect.signature(module.forward).parameters
