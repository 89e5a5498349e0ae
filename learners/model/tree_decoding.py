"""Decoding on a growing token tree: what prompts share is computed once, and answers join the tree when they end (`growing_tree.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perdure.envs.policy import Ids
from perdure.learners.model.tree_attention import TreeMemory

if TYPE_CHECKING:
    from perdure.learners.model.adapted_model import AdaptedModel


class TreeDecoding:
    """`Decoding` with the keys and values of a tree."""

    def __init__(self, model: AdaptedModel) -> None:
        self._model = model
        self._memory = TreeMemory(model.device, model.dtype)
        self._positions: list[int] = []
        """Of the last token of each row."""
        self.computed = 0

    @property
    def size(self) -> int:
        return len(self._memory.tree)

    def unknown(self, prompt: Ids) -> Ids:
        return self._memory.tree.unknown(prompt)

    def start(self, prompts: Sequence[Ids]) -> Tensor:
        tree = self._memory.tree
        ends, computed = self._memory.begin(prompts)
        self.computed = len(computed)
        place = {node: n for n, node in enumerate(computed)}
        wanted_R = torch.tensor([place[node] for node in ends], device=self._model.device)
        hidden_NC = self._model.forward(
            [tree.ids[node] for node in computed], [tree.depths[node] for node in computed], memory=self._memory
        )
        self._memory.branch(ends)
        self._positions = [tree.depths[node] for node in ends]
        return hidden_NC[wanted_R]

    def step(self, tokens: Sequence[int]) -> Tensor:
        self._memory.advance(tokens)
        self._positions = [position + 1 for position in self._positions]
        return self._model.forward(list(tokens), self._positions, memory=self._memory)

    def keep(self, rows: Sequence[int]) -> None:
        self._positions = [self._positions[row] for row in rows]
        self._memory.keep(rows)

    def finish(self) -> None:
        self._memory.finish()
