"""Token trees: common prefixes of sequences are computed once.

Prompts of an environment share instructions and solved examples, members of a group share a prompt, turns of an episode share the
conversation so far. In a tree a shared token takes one position instead of one in each sequence. The attention mask shows each token its
own ancestors, and its position is its depth, so logits are those of the sequence alone. The engine prefills and decodes on such a tree;
learners take gradients through one.

Axes: N nodes of the tree, K of them whose logits are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perdure.envs.policy import Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTree:
    """Sequences merged on their common prefixes, in depth-first order: the descendants of a node follow it at once."""

    ids: list[int]
    parents: list[int]
    """Index of each node's parent; -1 for the first token of a sequence."""
    depths: list[int]
    paths: list[list[int]]
    """For each sequence, its nodes, one for each token."""

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """`(input_ids_1N, position_ids_1N, visible_11NN)`; `visible` says which node attends to which."""
        ids = torch.tensor([self.ids], device=device)
        positions = torch.tensor([self.depths], device=device)
        visible = torch.eye(len(self.ids), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                visible[node] |= visible[parent]
        return ids, positions, visible[None, None].to(device)


def build_tree(sequences: Sequence[Sequence[int]]) -> TokenTree:
    """Merge sequences of token ids into a tree, in depth-first order. An empty sequence has an empty path."""
    ids: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    paths: list[list[int]] = [[] for _ in sequences]
    before: Sequence[int] = ()
    path: list[int] = []
    for index in sorted(range(len(sequences)), key=lambda i: tuple(sequences[i])):  # neighbours share the longest prefixes
        sequence = sequences[index]
        del path[common_prefix(before, sequence) :]
        for depth in range(len(path), len(sequence)):
            parents.append(path[-1] if path else -1)
            path.append(len(ids))
            ids.append(sequence[depth])
            depths.append(depth)
        paths[index], before = list(path), sequence
    return TokenTree(ids=ids, parents=parents, depths=depths, paths=paths)


def leaf_paths(tree: TokenTree) -> list[list[int]]:
    """The nodes from a root to each node without children."""
    inner = set(tree.parents)
    paths = []
    for node in range(len(tree.ids)):
        if node not in inner:
            path = [node]
            while (parent := tree.parents[path[-1]]) >= 0:
                path.append(parent)
            paths.append(path[::-1])
    return paths


def pack(items: Sequence[Sequence[Ids]], budget_tokens: int, *, by_rows: bool = False) -> list[list[int]]:
    """Split items into batches whose trees have at most `budget_tokens` nodes; a larger item is a batch of its own.

    The sequences of one item stay together. Returns the indices of each batch. Items are sorted by their longest sequences, so that common
    prefixes come into one batch. With `by_rows` a tree counts as its rows (`rows.py`), which share nothing.
    """
    longest = [max(sequences, key=len, default=()) for sequences in items]
    batches: list[list[int]] = []
    batch: list[int] = []
    size = 0
    previous: Ids = ()
    for index in sorted(range(len(items)), key=lambda i: longest[i]):
        nodes = len(longest[index]) if len(items[index]) == 1 else _size(build_tree(items[index]), by_rows)
        new = nodes if by_rows else nodes - common_prefix(previous, longest[index])
        if batch and size + new > budget_tokens:
            batches.append(batch)
            batch, size, new = [], 0, nodes
        batch.append(index)
        size += new
        previous = longest[index]
    if batch:
        batches.append(batch)
    return batches


def _size(tree: TokenTree, by_rows: bool) -> int:
    return sum(map(len, leaf_paths(tree))) if by_rows else len(tree.ids)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """With how many of the same tokens both begin."""
    for n, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return n
    return min(len(a), len(b))
