"""A token tree that grows while episodes are played: prompts begin with what was said before, so only their new tokens are computed.

Unlike a `TokenTree` (`tree.py`), which is built for one pass, nodes are added in the order in which they come. Their numbers never change.

Axes: N nodes that are computed in one pass, in B blocks of W; U nodes that a block attends to.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perdure.envs.policy import Ids


class GrowingTree:
    """Nodes by number. `ids` and `depths` hold the token of each node, and its position."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.depths: list[int] = []
        self._parents: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, sequence: Ids) -> tuple[int, int]:
        """The last node of the longest known prefix, -1 if nothing is known, and the length of the prefix."""
        node = -1
        for n, token in enumerate(sequence):
            child = self._children.get((node, token))
            if child is None:
                return node, n
            node = child
        return node, len(sequence)

    def unknown(self, sequence: Ids) -> Ids:
        """What must be computed of a prompt, after the number of the node that it continues; never nothing, since logits are wanted."""
        node, known = self.find(sequence[:-1])
        return (node, *sequence[known:])

    def add(self, parent: int, token: int) -> int:
        """The child of a node (-1: none) with this token; a new node if there is none yet."""
        node = self._children.setdefault((parent, token), len(self.ids))
        if node == len(self.ids):
            self.ids.append(token)
            self.depths.append(self.depths[parent] + 1 if parent >= 0 else 0)
            self._parents.append(parent)
        return node

    def extend(self, prompts: Sequence[Ids]) -> tuple[list[int], list[int]]:
        """Add prompts; returns the last node of each, and the nodes to compute: new ones and last ones, whose logits are wanted."""
        ends: dict[Ids, int] = {}
        computed: dict[int, None] = {}
        for prompt in sorted(set(prompts)):  # neighbours in a block share much
            node, known = self.find(prompt)
            for token in prompt[known:]:
                node = self.add(node, token)
                computed[node] = None
            ends[prompt] = node
            computed[node] = None
        return [ends[prompt] for prompt in prompts], list(computed)

    def blocks(self, nodes: Sequence[int], width: int, device: torch.device, least_shared: float = 0.0) -> NodeBlocks:
        """Cut nodes into blocks of at most `width`, and find what each attends to: itself and its ancestors.

        A node also begins another block if less than `least_shared` of what it attends to is already read by its block.
        """
        blocks: list[list[int]] = []
        read: list[dict[int, int]] = []
        """For each block the nodes that it reads, each with its column."""
        for node in nodes:
            new = self._above(node, read[-1]) if blocks else []
            if not blocks or len(blocks[-1]) == width or len(new) > (1 - least_shared) * (self.depths[node] + 1):
                blocks.append([])
                read.append({})
                new = self._above(node, {})
            for one in new:
                read[-1][one] = len(read[-1])
            blocks[-1].append(node)
        W, U = max(map(len, blocks)), max(map(len, read))
        seen_BWU = torch.zeros(len(blocks), W, U, dtype=torch.bool)
        for seen_WU, block, column in zip(seen_BWU, blocks, read, strict=True):
            row_of: dict[int, int] = {}
            for row, node in enumerate(block):
                if (above := row_of.get(node, row_of.get(self._parents[node]))) is not None:
                    seen_WU[row] = seen_WU[above]
                    seen_WU[row, column[node]] = True
                else:
                    seen_WU[row, [column[one] for one in self._above(node, {})]] = True
                row_of[node] = row
            seen_WU[len(block) :, 0] = True  # a softmax over nothing is not a number
        bias_BWU = torch.zeros(seen_BWU.shape).masked_fill_(~seen_BWU, -torch.inf)
        return NodeBlocks(
            keys_BU=torch.tensor([[*column, *[0] * (U - len(column))] for column in read], device=device),
            bias_BWU=bias_BWU.to(device),
            depth_BU=torch.tensor([[self.depths[node] for node in (*column, *[0] * (U - len(column)))] for column in read], device=device),
            deepest=max(self.depths[node] for node in nodes),
            depth_BW=torch.tensor([[self.depths[node] for node in block] + [0] * (W - len(block)) for block in blocks], device=device),
            place_N=torch.tensor([b * W + row for b, block in enumerate(blocks) for row in range(len(block))], device=device),
        )

    def _above(self, node: int, known: Container[int]) -> list[int]:
        """A node and its ancestors, from below, up to the first that is known."""
        found = []
        while node >= 0 and node not in known:
            found.append(node)
            node = self._parents[node]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBlocks:
    """What blocks of nodes attend to."""

    keys_BU: Tensor
    """The nodes that a block reads."""
    bias_BWU: Tensor
    """0 if a node of the block attends to that node, else -inf."""
    deepest: int
    """The largest depth of the nodes."""
    depth_BU: Tensor
    """Of the nodes that a block reads."""
    depth_BW: Tensor
    """Of the nodes of a block."""
    place_N: Tensor
    """Where each node is, of the B * W places."""

    def bias_within(self, window: int | None, steps: int) -> Tensor:
        """`bias_BWU` for tokens that are `steps` tokens after the nodes and see only the last `window` tokens, themselves among them."""
        if window is None or self.deepest + steps < window:
            return self.bias_BWU
        distance_BWU = self.depth_BW[:, :, None] + steps - self.depth_BU[:, None]
        return self.bias_BWU.masked_fill(distance_BWU >= window, -torch.inf)
