"""A base model in this process that computes token trees with any of several adapters, or with whole weights in place of its own.

Products with linear layers and in attention are in the model's `dtype`; what flows between them, norms, softmax and logits are in float32.
The engine and the learner of a process share one such model if they agree on the precision, so the weights are in memory once. A model
that trees cannot compute (`architecture.py`) is computed by rows, with the same results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from perdure.learners.model.adapted_linear import AdaptedLinear, Columns, LinearGroup, columns_of
from perdure.learners.model.adapting import CHUNK, adapt, mixes_tokens, text_of
from perdure.learners.model.architecture import Architecture, architecture_of
from perdure.learners.model.beside import BesideLayer
from perdure.learners.model.block_attention import TreeBlocks, tree_blocks
from perdure.learners.model.head import head_of
from perdure.learners.model.loading import load_net
from perdure.learners.model.rows import row_hidden
from perdure.learners.model.self_check import checked_sequences, refusing, require_no_gap, require_same
from perdure.learners.model.tree import TokenTree
from perdure.learners.model.tree_attention import TreeMemory, register
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import LoraPair, Weights
from perdure.memory.errors import InputError

KEYS = 512
"""Keys that a token of a tree attends to, about."""
SCANS = 6
"""Matrices of tokens by tokens that a recurrent layer has for each of its heads and each chunk of tokens."""
ROW_TOKENS = 8192
"""Most places in one pass of rows."""
Group = LinearGroup | BesideLayer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """Weights that are ready for use, cast to the model's precision: an adapter's columns by group, or tensors by parameter name."""

    columns: Sequence[Sequence[Columns | None]] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class AdaptedModel:
    """`net` is the transformers model, `text` the part of it that reads text, and `by_rows` whether trees are computed row by row.

    `layers` are its adapted layers by the names of their weights, `transposed` the names of those whose weights are stored as (in, out) on
    disk. Raises `InputError` for a model that lacks weights or is computed in a way that is not known here, and if a 4-bit base needs
    bitsandbytes.
    """

    def __init__(self, files: ModelFiles, *, device: str, dtype: torch.dtype, quantized: bool = False) -> None:
        self.files, self.device, self.dtype = files, torch.device(device), dtype
        self.net: Any = load_net(files, device=device, dtype=dtype, quantized=quantized)
        self.text: Any = text_of(self.net)
        self.config: Any = self.net.config.get_text_config(decoder=True)
        how = architecture_of(self.config, (name for name, _ in self.text.named_parameters()))
        self.context_limit, self.by_rows = how.context_limit, False
        self.vocabulary: int = self.config.vocab_size
        if quantized:
            # Outside of training mode bitsandbytes on a CPU packs weights for inference at the first pass without gradients, and later
            # gradients through packed weights are wrong.
            self.net.train()
        with refusing(self.config.model_type):
            stored_TV = self.plain_logits(checked_sequences(self.vocabulary)[0])
            self.layers, self.transposed = adapt(self.net, self.text, dtype)
            if not quantized:
                self.net.to(self.device)
            self.head = head_of(self.net)
            wanted = [self.plain_logits(sequence) for sequence in checked_sequences(self.vocabulary)]
        require_same(stored_TV, wanted[0], files, self.config.model_type)
        self._base_tensors: dict[str, Tensor] = {}
        """The base model's own tensors that are replaced at present."""
        self._choose_way(wanted, how)

    def _choose_way(self, wanted: Sequence[Tensor], how: Architecture) -> None:
        """Set the model up to compute as a tree, or else by rows, whichever gives these logits of the checked sequences."""
        own_attention: str = self.net.config._attn_implementation
        ways = [True] if how.rows_because or not self.net._can_set_attn_implementation() else [False, True]
        for self.by_rows in ways:
            try:
                with refusing(self.config.model_type):
                    if False in ways:
                        self.net.set_attn_implementation(own_attention if self.by_rows else register())
                    self._groups: list[Group] = self._group()
                    self._names = [[name for name, layer in self.layers.items() if layer in group.layers] for group in self._groups]
                    self._base = Prepared(columns=[(None,) * len(group.layers) for group in self._groups])
                    self._in_use = self._base
                    require_no_gap(self, wanted)
                    if not self.by_rows:
                        self._require_window(how.window)
                break
            except InputError:
                if self.by_rows:
                    raise

    @torch.no_grad()
    def _require_window(self, window: int | None) -> None:
        """Raise `ValueError` if attention does not give its window to `tree_attention`, which is longer than what was checked."""
        blocks = tree_blocks([-1, 0], self.device)
        self.forward([0, 0], [0, 1], blocks=blocks)
        if window is not None and window not in blocks.windows:
            raise ValueError(f"its attention does not tell its window of {window} tokens")

    @property
    def bytes_per_node(self) -> int:
        """What a pass with gradients stores for one token of a tree, about."""
        return bytes_per_node(self.config, self.dtype)

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
        if self.by_rows:
            return row_hidden(tree, self.forward_rows, self.device, ROW_TOKENS)
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
        out = self.text(
            input_ids=torch.as_tensor(ids, device=self.device)[None],
            position_ids=torch.as_tensor(positions, device=self.device)[None],
            use_cache=False,
            blocks=blocks,
            memory=memory,
            products=self.dtype,
        )
        return cast(Tensor, out.last_hidden_state[0])

    def forward_rows(
        self, ids_RT: Tensor, positions_RT: Tensor, cache: DynamicCache | None = None, mask_RS: Tensor | None = None
    ) -> Tensor:
        """The last hidden states `(R, T, C)` of rows that continue those of a cache, which takes up what is computed.

        `mask_RS` is 0 where a row has no token, in the cache and in the pass.
        """
        out = self.text(
            input_ids=ids_RT, position_ids=positions_RT, attention_mask=mask_RS, past_key_values=cache, use_cache=cache is not None
        )
        return cast(Tensor, out.last_hidden_state)

    def new_cache(self) -> DynamicCache:
        """An empty cache for `forward_rows`."""
        return DynamicCache(config=self.config)

    def recompute_activations(self) -> None:
        """From now on activations are computed again for gradients: less memory, a third more time."""
        recompute_activations(self.net)

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
            self.hidden(TokenTree(ids=[0, 0], parents=[-1, 0], depths=[0, 1], paths=[[0, 1]]))
        for hook in hooks:
            hook.remove()
        groups: list[Group] = []
        for (parent, _), layers in inputs.items():
            is_exact = mixes_tokens(self.net.get_submodule(parent))
            groups.append(LinearGroup(layers, is_exact=is_exact, gradient_dtype=self.dtype))
        seen = {layer for layers in inputs.values() for layer in layers}
        return groups + [layer.group for layer in self.layers.values() if layer not in seen]

    @torch.no_grad()
    def plain_logits(self, ids: Sequence[int]) -> Tensor:
        """What `net` itself computes for a sequence, `(T, V)`."""
        ids_1T = torch.tensor([list(ids)], device=self.net.device)
        logits: Tensor = self.net(input_ids=ids_1T, use_cache=False).logits[0].float().to(self.device)
        return logits

    def _as_stored(self, name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self.device, self.net.get_parameter(name).dtype)
        return tensor.t().contiguous() if name in self.transposed else tensor


def bytes_per_node(config: Any, dtype: torch.dtype) -> int:
    """What a pass with gradients stores for one token: what products need, and residuals, norms and attention."""
    size, hidden, heads = dtype.itemsize, config.hidden_size, config.num_attention_heads
    wide = getattr(config, "intermediate_size", None) or 4 * hidden
    scanning = sum(kind not in ("full_attention", "sliding_attention") for kind in getattr(config, "layer_types", None) or ())
    states = getattr(config, "linear_num_value_heads", None) or getattr(config, "mamba_n_heads", None) or 0
    return int(
        config.num_hidden_layers * (size * (6 * hidden + 5 * wide + heads * KEYS) + 4 * 4 * hidden) + scanning * states * CHUNK * 4 * SCANS
    )


def recompute_activations(net: Any) -> None:
    """Have a transformers model compute activations again for gradients."""
    net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    net.enable_input_require_grads()
    for module in net.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True  # transformers recomputes only layers in training mode; what is inside computes as ever
