"""Attention over a token tree, by blocks of consecutive nodes, with gradients.

In depth-first order the ancestors of a block's nodes are those of its first node and nodes of the block itself. So each block attends to
these alone: N (block + depth) scores instead of N x N. The probabilities are stored for the gradient: four products with them take a
quarter of the time of torch's own gradient on a CPU in bfloat16. The forward pass is in float32, since rounding here would cost more
precision than all else; the gradient's products may be in bfloat16.

Axes: B blocks of W nodes, P ancestors of a block (padded), K = P + W keys of a block; H key heads, Q query heads of each; D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

WIDTH = 128
"""Nodes of a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeBlocks:
    """Which nodes each block of a tree attends to."""

    nodes: int
    ancestors_BP: Tensor
    """Indices of nodes; 0 where a block has fewer ancestors, which `bias` hides."""
    bias_BWK: Tensor
    """0 if a node sees a key, else -inf."""
    distance_BWK: Tensor
    """How many tokens a key lies before a node that sees it."""
    farthest: int
    """The largest distance in the tree."""
    windows: dict[int, TreeBlocks] = field(default_factory=dict)
    """Those that were asked for."""

    def within(self, window: int | None) -> TreeBlocks:
        """The same where a node sees only the last `window` tokens, itself among them."""
        if window is None:
            return self
        if window not in self.windows:
            self.windows[window] = self
            if self.farthest >= window:
                bias_BWK = self.bias_BWK.masked_fill(self.distance_BWK >= window, -torch.inf)
                self.windows[window] = replace(self, bias_BWK=bias_BWK, windows={})
        return self.windows[window]


def tree_blocks(parents: Sequence[int], device: torch.device, width: int = WIDTH) -> TreeBlocks:
    """Cut a tree in depth-first order into blocks. `parents` are indices of earlier nodes, -1 for a root."""
    nodes = len(parents)
    blocks = -(-nodes // width)
    path: list[int] = []
    heads: list[list[int]] = []
    depths: list[int] = []
    end = [nodes] * nodes
    for node, parent in enumerate(parents):
        while path and path[-1] != parent:
            end[path.pop()] = node
        if node % width == 0:
            heads.append(list(path))
        depths.append(len(path))
        path.append(node)
    depth = max(map(len, heads))
    ancestors_BP = torch.tensor([head + [-1] * (depth - len(head)) for head in heads], dtype=torch.long).view(blocks, depth)
    own_BW = torch.arange(blocks * width).view(blocks, width)
    key_B1K, query_BW1 = torch.cat([ancestors_BP, own_BW], 1)[:, None], own_BW[:, :, None]
    end_N = torch.tensor(end + [0] * (blocks * width - nodes))  # the descendants of a node are those up to its end
    visible_BWK = (key_B1K >= 0) & (key_B1K <= query_BW1) & (query_BW1 < end_N[key_B1K])
    visible_BWK[:, :, depth:] |= torch.eye(width, dtype=torch.bool)  # so that padding sees something
    bias_BWK = torch.zeros(visible_BWK.shape).masked_fill_(~visible_BWK, -torch.inf)
    depth_N = torch.tensor(depths + [0] * (blocks * width - nodes))
    return TreeBlocks(
        nodes=nodes,
        ancestors_BP=ancestors_BP.clamp(min=0).to(device),
        bias_BWK=bias_BWK.to(device),
        distance_BWK=(depth_N[own_BW][:, :, None] - depth_N[torch.cat([ancestors_BP.clamp(min=0), own_BW], 1)][:, None]).to(device),
        farthest=max(depths),
    )


def block_attention(
    query_GND: Tensor, key_HND: Tensor, value_HND: Tensor, blocks: TreeBlocks, scaling: float, dtype: torch.dtype
) -> Tensor:
    """Attention output `(N, G, D)` in float32; `dtype` is the precision of the products of the gradient. G = H * Q query heads."""
    read: Tensor = _BlockAttention.apply(query_GND, key_HND, value_HND, blocks, scaling, dtype)  # type: ignore[no-untyped-call]
    return read


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_GND: Tensor, key_HND: Tensor, value_HND: Tensor, blocks: TreeBlocks, scaling: float, dtype: torch.dtype
    ) -> Tensor:
        (B, W, K), H, G = blocks.bias_BWK.shape, len(key_HND), len(query_GND)
        Q = G // H
        query = _in_blocks(query_GND.float() * scaling, B, W).view(H, Q, B, W, -1).permute(2, 0, 1, 3, 4).reshape(B, H, Q * W, -1)
        key, value = (_with_ancestors(one.float(), blocks) for one in (key_HND, value_HND))
        scores = query @ key.mT
        scores.view(B, H, Q, W, K).add_(blocks.bias_BWK[:, None, None])
        share = torch.softmax(scores, -1)
        del scores
        ctx.save_for_backward(*(one.to(dtype) for one in (query, key, value, share)))
        ctx.blocks, ctx.scaling, ctx.dtypes = blocks, scaling, (query_GND.dtype, key_HND.dtype, value_HND.dtype)
        read = (share @ value).view(B, H, Q, W, -1).permute(0, 3, 1, 2, 4).reshape(B * W, G, -1)
        return read[: blocks.nodes]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, share = ctx.saved_tensors
        blocks: TreeBlocks = ctx.blocks
        (B, W, _), H, D = blocks.bias_BWK.shape, key.shape[1], value.shape[-1]
        Q = query.shape[2] // W
        read_NGD = torch.nn.functional.pad(grads[0].to(share.dtype), (0, 0, 0, 0, 0, B * W - blocks.nodes))
        read = read_NGD.view(B, W, H, Q, D).permute(0, 2, 3, 1, 4).reshape(B, H, Q * W, D)
        score = torch.ops.aten._softmax_backward_data(read @ value.mT, share, -1, share.dtype)
        d_query = (score @ key).view(B, H, Q, W, -1).permute(1, 2, 0, 3, 4).reshape(H * Q, B * W, -1)[:, : blocks.nodes]
        d_key = _without_ancestors(score.mT @ query, blocks)
        d_value = _without_ancestors(share.mT @ read, blocks)
        of_query, of_key, of_value = ctx.dtypes
        return d_query.to(of_query) * ctx.scaling, d_key.to(of_key), d_value.to(of_value), None, None, None


def _in_blocks(one_GND: Tensor, blocks: int, width: int) -> Tensor:
    """Padded to whole blocks: `(G, B, W, D)`."""
    padded = torch.nn.functional.pad(one_GND, (0, 0, 0, blocks * width - one_GND.shape[1]))
    return padded.reshape(len(one_GND), blocks, width, one_GND.shape[2])


def _with_ancestors(one_HND: Tensor, blocks: TreeBlocks) -> Tensor:
    """The keys or values that each block sees: `(B, H, K, D)`."""
    (B, W, _), P = blocks.bias_BWK.shape, blocks.ancestors_BP.shape[1]
    above = one_HND.index_select(1, blocks.ancestors_BP.flatten()).view(len(one_HND), B, P, one_HND.shape[2])
    return torch.cat([above, _in_blocks(one_HND, B, W)], 2).transpose(0, 1).contiguous()


def _without_ancestors(d_BHKD: Tensor, blocks: TreeBlocks) -> Tensor:
    """The gradient `(H, N, D)` of keys or values, from that of `_with_ancestors`."""
    (B, W, _), P, H = blocks.bias_BWK.shape, blocks.ancestors_BP.shape[1], d_BHKD.shape[1]
    d_HBKD = d_BHKD.transpose(0, 1)
    own_HND = d_HBKD[:, :, P:].reshape(H, B * W, -1).float()  # many blocks add to one ancestor, so the sum is in float32
    own_HND.index_add_(1, blocks.ancestors_BP.flatten(), d_HBKD[:, :, :P].reshape(H, B * P, d_BHKD.shape[3]).float())
    return own_HND[:, : blocks.nodes]
