"""A base model in this process that computes token trees with any of several adapters, or with whole weights in place of its own.

Products with linear layers and in attention are in the model's `dtype`; what flows between them, norms, softmax and logits are in float32.
The engine and the learner of a process share one such model if they agree on the precision, so the weights are in memory once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from perdure.learners.losses import kl_divergence
from perdure.learners.model.adapted_linear import AdaptedLinear, Columns, LinearGroup, columns_of
from perdure.learners.model.beside import BesideLayer
from perdure.learners.model.block_attention import TreeBlocks, tree_blocks
from perdure.learners.model.head import head_of
from perdure.learners.model.tree import TokenTree, context_of
from perdure.learners.model.tree_attention import TreeMemory, register
from perdure.learners.weights.base_models import ModelFiles, four_bits
from perdure.learners.weights.weight_sets import LoraPair, Weights
from perdure.memory.errors import InputError

CHECKED_TOKENS = 16
MOST_KL = 0.3
"""In nats. bfloat16 alone costs at most a tenth of it."""
KEYS = 512
"""Keys that a token of a tree attends to, about."""
Group = LinearGroup | BesideLayer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """Weights that are ready for use, cast to the model's precision: an adapter's columns by group, or tensors by parameter name."""

    columns: Sequence[Sequence[Columns | None]] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class AdaptedModel:
    """`net` is the transformers model. `layers` are its adapted layers by the names of their weights, `transposed` the names of those whose
    weights are stored as (in, out) on disk.

    Raises `InputError` for a model whose attention or logits token trees do not support, and if a 4-bit base needs bitsandbytes.
    """

    def __init__(self, files: ModelFiles, *, device: str, dtype: torch.dtype, quantized: bool = False) -> None:
        transformers_logging.disable_progress_bar()
        self.files, self.device, self.dtype = files, torch.device(device), dtype
        self.net: Any = cast(Any, AutoModelForCausalLM).from_pretrained(
            files.path,
            dtype=dtype if quantized else "auto",
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=register(),
            quantization_config=four_bits() if quantized else None,
            device_map={"": device} if quantized else None,
        )
        self.context_limit = context_of(self.net.config)
        self.vocabulary: int = self.net.config.vocab_size
        _disable_dropout(self.net.requires_grad_(False))
        if quantized:
            # Outside of training mode bitsandbytes on a CPU packs weights for inference at the first pass without gradients, and later
            # gradients through packed weights are wrong.
            self.net.train()
        expected_TV = self._plain_logits()
        self.layers: dict[str, AdaptedLinear | BesideLayer] = {}
        self.transposed: set[str] = set()
        self._adapt()
        if not quantized:
            self.net.to(self.device)
        self.head = head_of(self.net)
        self._groups: list[Group] = self._group()
        self._names = [[name for name, layer in self.layers.items() if layer in group.layers] for group in self._groups]
        self._base = Prepared(columns=[(None,) * len(group.layers) for group in self._groups])
        self._base_tensors: dict[str, Tensor] = {}
        """The base model's own tensors that are replaced at present."""
        self._in_use = self._base
        self._check(expected_TV)

    @property
    def bytes_per_node(self) -> int:
        """What a pass with gradients stores for one token of a tree, about: what products need, and residuals, norms and attention."""
        config, size = self.net.config, self.dtype.itemsize
        hidden, heads = config.hidden_size, config.num_attention_heads
        wide = getattr(config, "intermediate_size", None) or 4 * hidden
        return int(config.num_hidden_layers * (size * (6 * hidden + 5 * wide + heads * KEYS) + 4 * 4 * hidden))

    def prepare(self, weights: Weights) -> Prepared:
        """Make weights ready for use. Pairs that require gradients are in training, and are prepared again after each step.

        Raises `InputError` for an adapter of a layer that the model does not have.
        """
        if not weights:
            return self._base
        pairs = {name: pair for name, pair in weights.items() if isinstance(pair, LoraPair)}
        unknown = sorted(pairs.keys() - self.layers.keys())
        if unknown:
            raise InputError(f"{self.files.name} has no linear layer {unknown[0].removesuffix('.weight')!r} that could carry an adapter")
        columns = [
            tuple(columns_of(pairs[name], self.layers[name].dtype, self.device) if name in pairs else None for name in names)
            for names in self._names
        ]
        tensors = {name: self._as_stored(name, tensor) for name, tensor in weights.items() if isinstance(tensor, Tensor)}
        return Prepared(columns=columns if pairs else (), tensors=tensors)

    def use(self, prepared: Prepared) -> None:
        """Compute with these weights from now on."""
        if prepared is self._in_use:
            return
        for name, tensor in self._base_tensors.items():
            self.net.get_parameter(name).data = tensor
        self._base_tensors = {}
        for group, columns in zip(self._groups, prepared.columns or self._base.columns, strict=True):
            group.use(columns)
        if prepared.tensors:
            for group in self._groups:
                group.use_own_weights()
            for name, tensor in prepared.tensors.items():
                parameter = self.net.get_parameter(name)
                self._base_tensors[name] = parameter.data
                parameter.data = tensor
        self._in_use = prepared

    def tensors(self) -> dict[str, Tensor]:
        """All parameters by name, as they are stored on disk."""
        return {name: self.as_on_disk(name, parameter.data) for name, parameter in self.net.named_parameters()}

    def as_on_disk(self, name: str, tensor: Tensor) -> Tensor:
        """A parameter in the form in which it is stored."""
        return tensor.t() if name in self.transposed else tensor

    def hidden(self, tree: TokenTree) -> Tensor:
        """The last hidden states `(N, C)` of all nodes of a tree."""
        return self.forward(tree.ids, tree.depths, blocks=tree_blocks(tree.parents, self.device))

    def forward(
        self,
        ids: Sequence[int] | Tensor,
        positions: Sequence[int] | Tensor,
        *,
        blocks: TreeBlocks | None = None,
        memory: TreeMemory | None = None,
    ) -> Tensor:
        """The last hidden states `(N, C)` of N tokens; `blocks` or `memory` say to which tokens each attends (`tree_attention.py`)."""
        out = self.net.base_model(
            input_ids=torch.as_tensor(ids, device=self.device)[None],
            position_ids=torch.as_tensor(positions, device=self.device)[None],
            use_cache=False,
            blocks=blocks,
            memory=memory,
            products=self.dtype,
        )
        return cast(Tensor, out.last_hidden_state[0])

    def recompute_activations(self) -> None:
        """From now on activations are computed again for gradients: less memory, a third more time."""
        self.net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.net.enable_input_require_grads()
        self.net.train()  # transformers recomputes only in training mode; there is no dropout

    def _adapt(self) -> None:
        """Put `AdaptedLinear` in place of each linear layer except the head, and all other parameters into float32."""
        head = self.net.get_output_embeddings()
        for name, module in list(self.net.named_modules()):
            if module is head or not isinstance(module, nn.Linear | Conv1D):
                continue
            made: AdaptedLinear | BesideLayer
            if type(module) is nn.Linear or isinstance(module, Conv1D):
                weight = module.weight.data.t() if isinstance(module, Conv1D) else module.weight.data
                made = AdaptedLinear(weight.to(self.dtype).contiguous(), None if module.bias is None else module.bias.data)
                if isinstance(module, Conv1D):
                    self.transposed.add(f"{name}.weight")
            else:
                made = BesideLayer(module)
            parent, _, leaf = name.rpartition(".")
            setattr(self.net.get_submodule(parent), leaf, made)
            self.layers[f"{name}.weight"] = made
        matrices = {id(layer.weight) for layer in self.layers.values() if isinstance(layer, AdaptedLinear)}
        for parameter in self.net.parameters():
            if id(parameter) not in matrices and parameter.is_floating_point():
                parameter.data = parameter.data.float()

    def _group(self) -> list[Group]:
        """Find the layers that have the same input in a pass, and make groups of them."""
        inputs: dict[tuple[str, int], list[AdaptedLinear]] = {}
        held: list[Tensor] = []
        hooks = []
        for name, layer in self.layers.items():
            parent = name.removesuffix(".weight").rpartition(".")[0]

            def record(module: nn.Module, given: tuple[Tensor, ...], parent: str = parent) -> None:
                held.append(given[0])  # so that no other input gets its id
                inputs.setdefault((parent, id(given[0])), []).append(cast(AdaptedLinear, module))

            if isinstance(layer, AdaptedLinear):
                hooks.append(layer.register_forward_pre_hook(record))
        with torch.no_grad():
            self.forward([0, 0], [0, 1], blocks=tree_blocks([-1, 0], self.device))
        for hook in hooks:
            hook.remove()
        groups: list[Group] = []
        for (parent, _), layers in inputs.items():
            groups.append(LinearGroup(layers, is_exact="attention" in type(self.net.get_submodule(parent)).__name__.lower()))
        seen = {layer for layers in inputs.values() for layer in layers}
        return groups + [layer.group for layer in self.layers.values() if layer not in seen]

    def _checked_ids(self) -> list[int]:
        """Tokens from the whole vocabulary; the first ones are often control tokens, on which bfloat16 is far off."""
        return [(300 + 997 * n) % self.vocabulary for n in range(CHECKED_TOKENS)]

    @torch.no_grad()
    def _plain_logits(self) -> Tensor:
        """What the model itself computes for a few tokens."""
        ids_1T = torch.tensor([self._checked_ids()], device=self.net.device)
        logits: Tensor = self.net(input_ids=ids_1T, use_cache=False).logits[0].float().to(self.device)
        return logits

    @torch.no_grad()
    def _check(self, expected_TV: Tensor) -> None:
        """Raise `InputError` if the same tokens as a tree have other logits: the family does something that is not known here."""
        chain = list(range(CHECKED_TOKENS))
        hidden_TC = self.forward(self._checked_ids(), chain, blocks=tree_blocks([n - 1 for n in chain], self.device))
        logits_TV = self.head.logits(hidden_TC)
        kl = float(kl_divergence(expected_TV.log_softmax(-1), logits_TV.log_softmax(-1)).mean())
        if not kl < MOST_KL:
            raise InputError(
                f"a {self.net.config.model_type} model computes its answers in a way that Perdure does not support (they differ by "
                f"{kl:.2g} nats a token): choose another model"
            )

    def _as_stored(self, name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self.device, self.net.get_parameter(name).dtype)
        return tensor.t().contiguous() if name in self.transposed else tensor


def _disable_dropout(model: nn.Module) -> None:
    """Dropout would make the log-probs differ from those of the policy that sampled."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
