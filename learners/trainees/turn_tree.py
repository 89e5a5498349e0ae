"""One token tree of many turns, and where it predicts their action tokens.

The prompt of a group, the solved examples of an environment and the conversation before a turn are computed once. The last token of an
answer predicts nothing and is not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perdure.envs.policy import Ids
from perdure.learners.model.head import Head
from perdure.learners.model.tree import TokenTree, build_tree


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnTree:
    """Axes: K nodes that predict an action token, A action tokens of all turns, laid end to end."""

    tree: TokenTree
    node_K: Tensor
    row_A: Tensor
    """Which of the K nodes predicts the token."""
    token_A: Tensor


def turn_tree(turns: Sequence[tuple[Ids, Ids]], device: torch.device) -> TurnTree:
    """The tree of each `(prompt_ids, action_ids)`."""
    tree = build_tree([prompt + action[:-1] for prompt, action in turns])
    predicting = [path[len(prompt) - 1 : len(prompt) - 1 + len(action)] for path, (prompt, action) in zip(tree.paths, turns, strict=True)]
    nodes = sorted({node for path in predicting for node in path})
    row_of = {node: row for row, node in enumerate(nodes)}
    return TurnTree(
        tree=tree,
        node_K=torch.tensor(nodes, dtype=torch.long, device=device),
        row_A=torch.tensor([row_of[node] for path in predicting for node in path], dtype=torch.long, device=device),
        token_A=torch.tensor([token for _, action in turns for token in action], dtype=torch.long, device=device),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What a model predicts at the K nodes of a tree; its gradients go to the model."""

    on: TurnTree
    hidden_KC: Tensor
    head: Head

    def logprobs(self, temperature: float) -> Tensor:
        """Log-probs of the A action tokens."""
        return self.head.logprobs(self.hidden_KC, self.on.row_A, self.on.token_A, temperature)

    @property
    def hidden_AC(self) -> Tensor:
        """The hidden state that predicts each action token."""
        return self.hidden_KC[self.on.row_A]
