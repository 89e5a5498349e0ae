"""What of a model is trained: the few methods in which LoRA and full tuning differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from torch import Tensor, nn

from perdure.learners.model.adapted_model import Prepared
from perdure.learners.weights.weight_sets import LoraPair, Weights

Reference = Literal["base", "serving", "teacher"]


class TrainedWeights(Protocol):
    """`parameters` are trained; `references` are other weights of the same model, for comparison, without gradients."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]: ...

    @property
    def references(self) -> frozenset[Reference]: ...

    def prepared(self, reference: Reference | None) -> Prepared:
        """The weights of a reference, or those in training, ready for use."""
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


def references_of(given: Iterable[Reference], with_teacher: bool) -> frozenset[Reference]:
    """The names of all references; the base model is always one."""
    names: set[Reference] = {"base", *given}
    return frozenset(names | {"teacher"} if with_teacher else names)
