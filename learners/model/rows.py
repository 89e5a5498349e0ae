"""The hidden states of a token tree, computed one row a sequence: for models that a tree cannot compute at once.

Rows are the sequences from a root to a leaf. They are padded on the right: later tokens change nothing before them. What rows share is
computed in each of them, and taken from one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from perdure.learners.model.tree import TokenTree, leaf_paths

LEAST_FILLED = 0.75
"""Of the places in a pass, the share that tokens must fill."""


def row_hidden(tree: TokenTree, forward: Callable[[Tensor, Tensor], Tensor], device: torch.device, most_tokens: int | None) -> Tensor:
    """Hidden states `(N, C)` of all nodes. `forward` gives those of `(ids_RT, positions_RT)`; a pass has at most `most_tokens` places, and
    None is for a single pass, however little of it is filled."""
    paths = sorted(leaf_paths(tree), key=len)
    owner_N: list[int] = [-1] * len(tree.ids)
    parts: list[Tensor] = []
    offset = 0
    for start, stop in _passes([len(path) for path in paths], most_tokens) if most_tokens else [(0, len(paths))]:
        rows, longest = paths[start:stop], len(paths[stop - 1])
        ids_RT = torch.tensor([[tree.ids[node] for node in path] + [0] * (longest - len(path)) for path in rows], device=device)
        positions_RT = torch.arange(longest, device=device).expand(len(rows), -1)
        wanted: list[int] = []
        for row, path in enumerate(rows):
            for depth in range(len(path) - 1, -1, -1):
                if owner_N[path[depth]] >= 0:
                    break
                owner_N[path[depth]] = offset + len(wanted)
                wanted.append(row * longest + depth)
        parts.append(forward(ids_RT, positions_RT).flatten(0, 1)[torch.tensor(wanted, device=device)])
        offset += len(wanted)
    return torch.cat(parts)[torch.tensor(owner_N, device=device)]


def _passes(lengths: Sequence[int], most_tokens: int) -> list[tuple[int, int]]:
    """Cut rows, the shortest first, into passes of rows of about one length."""
    found, start = [], 0
    for n in range(1, len(lengths) + 1):
        if n < len(lengths):
            places = (n + 1 - start) * lengths[n]
            if places <= most_tokens and sum(lengths[start : n + 1]) >= LEAST_FILLED * places:
                continue
        found.append((start, n))
        start = n
    return found
