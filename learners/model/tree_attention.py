"""Attention on a growing token tree and for rows that continue it: keys and values are computed once for all rows and all later prompts.

Tokens are computed in blocks; a block reads the keys of its own nodes and of their ancestors, not of the whole tree. While rows are
decoded, those of a block share what they read of the tree, and each row has the keys of its own tokens. These join the tree later, where a
prompt that continues the answer finds them. Scores and softmax are in fp32 in every precision of the model. transformers calls
`tree_attention` by the name that `register` returns.

Axes: H key heads, Q query heads of each, G = H * Q; N tokens in a pass; B blocks of W, S = B * W places in them; U keys of a block; T own
keys of each row; D features of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from perdure.envs.policy import Ids
from perdure.learners.model.block_attention import TreeBlocks, block_attention
from perdure.learners.model.growing_tree import GrowingTree, NodeBlocks

NAME = "perdure_tree"
_ROW_WIDTH = 8
"""Most rows in one block."""
_LEAST_SHARED = 0.5
"""Of what a row reads, the share that it has in common with its block; rows of different environments are in different blocks."""
_ROOM = 32
"""Space is allocated for this number of decoding steps at a time."""

KeyValue = tuple[Tensor, Tensor]


@dataclass(slots=True)
class DecodedRow:
    """A row that continues a node of the tree with tokens of its own."""

    end: int
    tokens: list[int] = field(default_factory=list)
    """Those that were computed, not the one that was sampled last."""


class TreeMemory:
    """The keys and values of one sampler for the tokens of `tree`.

    Its use: `begin` and a pass, then `branch`, and a pass after each `advance`; at last `finish`. Keys and values are stored in `dtype`,
    that of the model's products. A block of the tree has `width` nodes; of one layer at most `most_scores` exist at the same time.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, *, width: int = 128, most_scores: int = 2**24) -> None:
        self.tree = GrowingTree()
        self.steps = 0
        """Decoding steps so far, the current one included; 0 while a part of the tree is computed."""
        self._device = device
        self._dtype = dtype
        self._width = width
        self._most_scores = most_scores
        self._nodes: dict[int, KeyValue] = {}
        """By layer, `(H, room, D)`."""
        self._computed_N = torch.empty(0, dtype=torch.long)
        self._blocks: NodeBlocks | None = None
        self._place_N = self._row_S = self._computed_N
        """For each place in the blocks, the token of a pass that is there; any, if the place is empty."""
        self._shared: dict[int, KeyValue] = {}
        """By layer, keys `(H * B, D, U)` and values `(H * B, U, D)` in fp32: what rows read of the tree while they are decoded."""
        self._own: dict[int, KeyValue] = {}
        """By layer, `(room, H, S, D)` in fp32."""
        self._attended: set[int] = set()
        """Layers that have attended in this pass."""
        self._rows: list[DecodedRow] = []
        """In the order of the blocks, also those that have ended since these were made."""
        self._alive: list[int] = []
        """Which of them are still decoded."""

    @property
    def shared_keys(self) -> int:
        """Keys of the tree that are read in a pass."""
        return 0 if self._blocks is None else self._blocks.keys_BU.numel()

    def begin(self, prompts: Sequence[Ids]) -> tuple[list[int], list[int]]:
        """Add prompts; returns the last node of each, and the nodes that the next pass must compute."""
        self._attended = set()
        ends, computed = self.tree.extend(prompts)
        self._computed_N = torch.tensor(computed, device=self._device)
        self._blocks = self.tree.blocks(computed, self._width, self._device)
        self._place(range(len(computed)))
        return ends, computed

    def branch(self, ends: Sequence[int]) -> None:
        """Begin to decode one row after each of these nodes."""
        self._rows = [DecodedRow(end) for end in ends]
        self._arrange()

    def advance(self, tokens: Sequence[int]) -> None:
        """The next pass computes these tokens, one for each row."""
        self.steps += 1
        self._attended = set()
        for row, token in zip(self._alive, tokens, strict=True):
            self._rows[row].tokens.append(token)

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with these rows only. When a third of the rows has ended, what no row reads is dropped."""
        self._alive = [self._alive[row] for row in rows]
        if 3 * len(self._alive) > 2 * len(self._rows):
            self._place(self._alive)
            return
        assert self._blocks is not None
        self._join_tree(sorted(set(range(len(self._rows))).difference(self._alive)))
        before_R = self._blocks.place_N[self._alive]
        self._rows = [self._rows[row] for row in self._alive]
        self._arrange()
        from_S = before_R[self._row_S]
        self._own = {layer: (keys.index_select(2, from_S), values.index_select(2, from_S)) for layer, (keys, values) in self._own.items()}

    def finish(self) -> None:
        """All rows have ended."""
        self._join_tree(range(len(self._rows)))
        self.steps, self._blocks, self._shared, self._own = 0, None, {}, {}

    def attend(
        self, layer: int, query_GND: Tensor, key_HND: Tensor, value_HND: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        """Store the keys and values of a pass; returns its attention output `(N, G, D)`, in fp32. With a window a token attends to as many
        tokens, the last of which is itself. Raises `ValueError` if a layer attends twice in a pass: it has one place for keys and values.
        """
        if layer in self._attended:
            raise ValueError(f"layer {layer} attends twice in a pass")
        self._attended.add(layer)
        query_GSD = query_GND.float().mul(scaling).index_select(1, self._row_S)
        query_HSQD = query_GSD.view(len(key_HND), -1, *query_GSD.shape[1:]).transpose(1, 2).contiguous()
        if self.steps:
            read_HSQD = self._read_rows(layer, query_HSQD, self._store_rows(layer, key_HND, value_HND), window)
        else:
            read_HSQD = self._read_tree(query_HSQD, self._store_nodes(layer, self._computed_N, key_HND, value_HND), window)
        return read_HSQD.index_select(1, self._place_N).transpose(0, 1).flatten(1, 2)

    def _read_tree(self, query_HSQD: Tensor, nodes: KeyValue, window: int | None) -> Tensor:
        assert self._blocks is not None
        whole_BWU = self._blocks.bias_within(window, 0)
        (_, W, U), (H, _, Q, D) = self._blocks.bias_BWU.shape, query_HSQD.shape
        at_once = max(1, self._most_scores // (H * W * Q * U))
        parts = []
        for start in range(0, len(self._blocks.keys_BU), at_once):
            keys_BU, bias_BWU = self._blocks.keys_BU[start : start + at_once], whole_BWU[start : start + at_once]
            keys, values = (_gathered(one, keys_BU) for one in nodes)
            query = query_HSQD[:, start * W : (start + at_once) * W].reshape(len(keys), W * Q, D)
            scores = torch.bmm(query, keys.mT).view(H, -1, W, Q, U).add_(bias_BWU[:, :, None])
            parts.append(torch.bmm(scores.softmax(-1).view(len(keys), W * Q, U), values).view(H, -1, Q, values.shape[2]))
        return torch.cat(parts, 1)

    def _read_rows(self, layer: int, query_HSQD: Tensor, own: KeyValue, window: int | None) -> Tensor:
        assert self._blocks is not None
        (keys, values), (keys_THSD, values_THSD) = self._shared[layer], own
        if window is not None:
            keys_THSD, values_THSD = keys_THSD[-window:], values_THSD[-window:]
        bias_BWU = self._blocks.bias_within(window, self.steps)
        (B, W, U), (H, S, Q, D), T = bias_BWU.shape, query_HSQD.shape, len(keys_THSD)
        shared = torch.bmm(query_HSQD.view(H * B, W * Q, D), keys).view(H, B, W, Q, U).add_(bias_BWU[:, :, None])
        mine = torch.bmm(query_HSQD.view(H * S, Q, D), keys_THSD.view(T, H * S, D).permute(1, 2, 0))
        weights = torch.cat([shared.view(H, S, Q, U), mine.view(H, S, Q, T)], -1).softmax(-1)
        read = torch.bmm(weights.view(H * B, W * Q, U + T)[..., :U], values).view(H * S, Q, -1)
        read += torch.bmm(weights.view(H * S, Q, U + T)[..., U:], values_THSD.view(T, H * S, -1).transpose(0, 1))
        return read.view(H, S, Q, -1)

    def _arrange(self) -> None:
        """Put all rows into blocks, and gather what these read of the tree."""
        self._blocks = blocks = self.tree.blocks([row.end for row in self._rows], _ROW_WIDTH, self._device, _LEAST_SHARED)
        self._alive = list(range(len(self._rows)))
        self._place(self._alive)
        self._shared = {
            layer: (_gathered(keys, blocks.keys_BU).mT.contiguous(), _gathered(values, blocks.keys_BU))
            for layer, (keys, values) in self._nodes.items()
        }

    def _place(self, alive: Sequence[int]) -> None:
        """The tokens of the coming passes are at these of the places that are filled."""
        assert self._blocks is not None
        (B, W, _), device = self._blocks.bias_BWU.shape, self._device
        self._place_N = self._blocks.place_N[torch.tensor(alive, device=device)]
        self._row_S = torch.zeros(B * W, dtype=torch.long, device=device).index_copy_(
            0, self._place_N, torch.arange(len(alive), device=device)
        )

    def _join_tree(self, rows: Sequence[int]) -> None:
        """Add the tokens that these rows have computed to the tree."""
        assert self._blocks is not None
        places = self._blocks.place_N.tolist()
        new = []
        for row in rows:
            node = self._rows[row].end
            for step, token in enumerate(self._rows[row].tokens):
                size = len(self.tree)
                node = self.tree.add(node, token)
                if node == size:
                    new.append((node, step, places[row]))
        if new:
            node_N, step_N, place_N = torch.tensor(new, device=self._device).unbind(1)
            for layer, (keys, values) in self._own.items():
                self._store_nodes(layer, node_N, keys[step_N, :, place_N].transpose(0, 1), values[step_N, :, place_N].transpose(0, 1))

    def _store_nodes(self, layer: int, node_N: Tensor, key_HND: Tensor, value_HND: Tensor) -> KeyValue:
        keys, values = self._nodes.get(layer, (key_HND[:, :0].to(self._dtype), value_HND[:, :0].to(self._dtype)))
        if (room := keys.shape[1]) < len(self.tree):
            room = max(len(self.tree), room * 3 // 2)
            keys, values = self._nodes[layer] = _with_room(keys, 1, room), _with_room(values, 1, room)
        keys.index_copy_(1, node_N, key_HND.to(self._dtype))
        values.index_copy_(1, node_N, value_HND.to(self._dtype))
        return keys, values

    def _store_rows(self, layer: int, key_HND: Tensor, value_HND: Tensor) -> KeyValue:
        key_HSD, value_HSD = key_HND.index_select(1, self._row_S).float(), value_HND.index_select(1, self._row_S).float()
        keys, values = self._own.get(layer, (key_HSD.new_empty(0, *key_HSD.shape), value_HSD.new_empty(0, *value_HSD.shape)))
        if self.steps > len(keys):
            keys, values = self._own[layer] = _with_room(keys, 0, self.steps + _ROOM), _with_room(values, 0, self.steps + _ROOM)
        keys[self.steps - 1], values[self.steps - 1] = key_HSD, value_HSD
        return keys[: self.steps], values[: self.steps]


def _gathered(one_HCD: Tensor, keys_BU: Tensor) -> Tensor:
    """The keys or values that blocks read, `(H * B, U, D)` in fp32."""
    return one_HCD.index_select(1, keys_BU.flatten()).view(-1, keys_BU.shape[1], one_HCD.shape[2]).float()


def _with_room(one: Tensor, axis: int, size: int) -> Tensor:
    """The same with more room along an axis."""
    shape = list(one.shape)
    shape[axis] = size - shape[axis]
    return torch.cat([one, one.new_empty(shape)], axis) if shape[axis] else one


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    memory: TreeMemory | None = None,
    blocks: TreeBlocks | None = None,
    products: torch.dtype = torch.float32,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """The attention that transformers calls, `(1, heads, tokens, D)` in and `(1, tokens, heads, D)` out.

    A memory or the blocks of a whole tree say what each token attends to, and `sliding_window` how many tokens back; without both it is
    plain SDPA. `products` is the precision of the products with gradients.
    """
    if memory is not None:
        answer_NGD = memory.attend(cast(int, module.layer_idx), query[0], key[0], value[0], scaling, sliding_window)
        return answer_NGD.to(query.dtype)[None].contiguous(), None
    if blocks is not None:
        return block_attention(query[0], key[0], value[0], blocks.within(sliding_window), scaling, products)[None].contiguous(), None
    read: tuple[Tensor, None] = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, scaling=scaling, **rest)
    return read


def register() -> str:
    """Register `tree_attention` with transformers; returns its name, the model's `attn_implementation`."""
    AttentionInterface.register(NAME, tree_attention)
    return NAME
