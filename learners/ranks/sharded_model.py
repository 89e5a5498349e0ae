"""A model whose layers are spread over the ranks of a job by FSDP2 (`fully_shard`): each rank holds a part of every weight.

A layer is whole only while it is computed. So ranks compute in step, layer by layer, and what differs from `model/adapted_model.py` follows
from that: sequences are computed as rows, one padded pass for each micro-batch; adapters are parameters of their layers; and embeddings,
last norm and head are whole from a pass until its gradient or the next `reshard`. Token trees, 4-bit weights, layers whose weights are
stored as (in, out), and parts of a model that read no text are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from perdure.learners.model.adapted_model import bytes_per_node, recompute_activations
from perdure.learners.model.adapting import text_of
from perdure.learners.model.architecture import architecture_of
from perdure.learners.model.head import Head, head_of
from perdure.learners.model.loading import load_net
from perdure.learners.model.rows import row_hidden
from perdure.learners.model.tree import TokenTree
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import LoraPair, Weights, merge_into
from perdure.memory.errors import InputError

OWN = "own"
"""The name of the adapter in training."""
Shapes = Mapping[str, tuple[int, int]]
"""Output and input features of each layer that may carry an adapter, by the names of their weights."""
Adapters = Mapping[str, Mapping[str, LoraPair]]
"""By their names, of some of these layers."""


class ShardedModel:
    """One set of base weights, each rank with a part, and adapters beside them by name; `None` computes with the base weights alone.

    `adapters` makes them for the layers that the model has. With `trained` the weights themselves are in training, in float32. `weights`
    are merged into them first. Raises `InputError` for a model
    that has what is left out here.
    """

    by_rows = True

    def __init__(
        self,
        files: ModelFiles,
        *,
        device: str,
        dtype: torch.dtype,
        ranks: int,
        weights: Weights | None = None,
        adapters: Callable[[Shapes], Adapters] | None = None,
        trained: bool = False,
        checkpointing: bool = False,
    ) -> None:
        self.files, self.device, self.dtype = files, torch.device(device), dtype
        self.net: Any = load_net(files, device=device, dtype=dtype, quantized=False)
        text: Any = text_of(self.net)
        self.config: Any = self.net.config.get_text_config(decoder=True)
        self.context_limit = architecture_of(self.config, (name for name, _ in text.named_parameters())).context_limit
        self.vocabulary: int = self.config.vocab_size
        self._switch = _Switch()
        linear = _linear_layers(self.net, text, files)
        if weights:
            merge_into(self.net, weights)
        self.layers = {} if trained else {name: _replace(self.net, name, module, dtype, self._switch) for name, module in linear.items()}
        self.names = [name for name, _ in self.net.named_parameters()]
        matrices = {id(layer.weight) for layer in self.layers.values()}
        for parameter in self.net.parameters():
            if id(parameter) not in matrices and parameter.is_floating_point():
                parameter.data = parameter.data.float()
        self.net.requires_grad_(trained)
        for name, pairs in adapters({name: layer.shape for name, layer in self.layers.items()}).items() if adapters else ():
            for key in pairs.keys() & self.layers.keys():
                self.layers[key].add(name, pairs[key])
        if checkpointing:
            recompute_activations(self.net)
        self._tower = _Tower(text, self.net.get_output_embeddings())
        held = {id(parameter) for parameter in self._tower.parameters()}
        if trained and any(id(parameter) not in held for parameter in self.net.parameters()):
            raise InputError(f"{files.name} has parts that read no text: sharded=true tunes no such model in full; learn with tuning=lora")
        mesh = init_device_mesh(self.device.type, (ranks,))
        for module in [one for one in text.modules() if isinstance(one, GradientCheckpointingLayer)]:
            fully_shard(module, mesh=mesh)
        fully_shard(self._tower, mesh=mesh)
        for part in self._tower.modules():
            if isinstance(part, FSDPModule):
                part.set_force_sum_reduction_for_comms(True)  # of the gradients: their weights are of the whole batch
                part.set_gradient_divide_factor(1.0)

    @property
    def bytes_per_node(self) -> int:
        """What a pass with gradients stores for one token, about."""
        return bytes_per_node(self.config, self.dtype)

    def parameters(self) -> Iterator[nn.Parameter]:
        """This rank's parts of all base weights, by the order of `names`."""
        found = dict(self.net.named_parameters())
        return iter([found[name] for name in self.names])

    def adapter(self, name: str) -> list[nn.Parameter]:
        """This rank's parts of an adapter: down and up of each layer, in order."""
        return [part for layer in self.layers.values() for part in layer.parts(name)]

    def compute(self, tree: TokenTree, adapter: str | None) -> tuple[Tensor, Head]:
        """The last hidden states `(N, C)`, and the head; every rank calls it, if need be for no sequence at all."""
        self._switch.name = adapter
        if tree.ids:
            hidden_NC = row_hidden(tree, self._forward, self.device, None)
        else:
            one_11 = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            hidden_NC = self._forward(one_11, one_11).flatten(0, 1)[:0]
        head = head_of(self.net)
        return hidden_NC, head if torch.is_grad_enabled() else head.detached()

    def reshard(self) -> None:
        """Give up what is whole: weights are about to change."""
        for part in self._tower.modules():
            if isinstance(part, FSDPModule):
                part.reshard()

    def _forward(self, ids_RT: Tensor, positions_RT: Tensor) -> Tensor:
        return cast(Tensor, self._tower(ids_RT, positions_RT))


class _Tower(nn.Module):
    """The part of a model that reads text, with its head, which is not computed here."""

    def __init__(self, text: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.text, self.head = text, head

    def forward(self, ids_RT: Tensor, positions_RT: Tensor) -> Tensor:
        return cast(Tensor, self.text(input_ids=ids_RT, position_ids=positions_RT, use_cache=False).last_hidden_state)


class _Switch:
    """Which adapter all layers of a model use."""

    name: str | None = None


class _SplitLinear(nn.Module):
    """y = W x + b + scale * B A x, each of them a parameter of its own; the product with W is in the precision of W."""

    def __init__(self, inner: nn.Linear, dtype: torch.dtype, switch: _Switch) -> None:
        super().__init__()
        self.weight = nn.Parameter(inner.weight.data.to(dtype), requires_grad=False)
        self.bias = inner.bias
        self._switch = switch
        self._scales: dict[str, float] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """Output and input features."""
        return self.weight.shape[0], self.weight.shape[1]

    def add(self, name: str, pair: LoraPair) -> None:
        """Add an adapter, in float32; `OWN` is in training."""
        for part, tensor in (("down", pair.down_RI), ("up", pair.up_OR)):
            made = nn.Parameter(tensor.detach().to("cpu", torch.float32, copy=True), requires_grad=name == OWN)
            self.register_parameter(f"{name}_{part}", made)
        self._scales[name] = pair.scale

    def parts(self, name: str) -> list[nn.Parameter]:
        """Down and up of an adapter; nothing if it has none here."""
        return [self.get_parameter(f"{name}_{part}") for part in ("down", "up")] if name in self._scales else []

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x.to(self.weight.dtype), self.weight).float()
        if self.bias is not None:
            y = y + self.bias
        name = self._switch.name
        if name not in self._scales:
            return y
        down_RI, up_OR = self.parts(name)
        return y + (x.float() @ down_RI.t()) @ up_OR.t() * self._scales[name]


def _linear_layers(net: Any, text: Any, files: ModelFiles) -> dict[str, nn.Linear]:
    """The layers that may carry adapters, by the names of their weights, in the order of `adapting.py:adapt`."""
    head = net.get_output_embeddings()
    before = next(name for name, module in net.named_modules() if module is text)
    found = {}
    for inner, module in text.named_modules():
        name = f"{before}.{inner}" if before else inner
        if type(module) is nn.Linear and module is not head:
            found[f"{name}.weight"] = module
        elif type(module).__name__ == "Conv1D" or (isinstance(module, nn.Linear) and module is not head):
            raise InputError(f"{files.name} has layers of the kind {type(module).__name__}, which sharded=true cannot spread: leave it out")
    return found


def _replace(net: Any, name: str, module: nn.Linear, dtype: torch.dtype, switch: _Switch) -> _SplitLinear:
    made = _SplitLinear(module, dtype, switch)
    parent, _, leaf = name.removesuffix(".weight").rpartition(".")
    setattr(net.get_submodule(parent), leaf, made)
    return made
