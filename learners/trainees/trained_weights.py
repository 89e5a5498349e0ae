"""What of a model is trained: the few methods in which LoRA and full tuning differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from perdure.learners.model.adapted_model import AdaptedModel, Prepared
from perdure.learners.model.head import Head
from perdure.learners.model.tree import TokenTree
from perdure.learners.weights.weight_sets import LoraPair, Weights

Reference = Literal["base", "serving", "teacher"]


class TrainedModel(Protocol):
    """What a trainee must know of its model."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def by_rows(self) -> bool: ...

    @property
    def context_limit(self) -> int: ...

    @property
    def vocabulary(self) -> int: ...

    @property
    def bytes_per_node(self) -> int: ...


class TrainedWeights(Protocol):
    """`parameters` are trained; `references` are other weights of the same model, for comparison, without gradients."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]: ...

    @property
    def references(self) -> frozenset[Reference]: ...

    def compute(self, tree: TokenTree, reference: Reference | None) -> tuple[Tensor, Head]:
        """The last hidden states `(N, C)` of all nodes of a tree, and the head, with the weights of a reference or those in training;
        the head of a reference is detached."""
        ...

    def weights(self) -> dict[str, LoraPair | Tensor]:
        """The current weights, not a copy, by the parameter names of the base model."""
        ...

    def in_full(self, weights: Weights) -> Weights:
        """Weights in the form of `weights()`."""
        ...

    def follow(self, rate: float) -> None:
        """Move the teacher this share of the way to the current weights."""
        ...

    def teacher(self) -> list[Tensor]:
        """The tensors of a teacher that follows the learner; empty if there is no teacher or it is frozen."""
        ...


def compute_with(model: AdaptedModel, used: Prepared, own: Prepared, tree: TokenTree) -> tuple[Tensor, Head]:
    """Hidden states with these weights, and their head; the model has its own again afterwards."""
    try:
        model.use(used)
        return model.hidden(tree), model.head if used is own else model.head.detached()
    finally:
        model.use(own)


def references_of(given: Iterable[Reference], with_teacher: bool) -> frozenset[Reference]:
    """The names of all references; the base model is always one."""
    names: set[Reference] = {"base", *given}
    return frozenset(names | {"teacher"} if with_teacher else names)
