"""All weights of a model in training, in float32; its references are whole models too."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from perdure.learners.model.adapted_model import AdaptedModel, Prepared
from perdure.learners.model.head import Head
from perdure.learners.model.tree import TokenTree
from perdure.learners.trainees.trained_weights import Reference, compute_with, references_of
from perdure.learners.weights.weight_sets import LoraPair, Weights, merge


class FullWeights:
    """The parameters of the model itself, which no engine may share. They begin as `start`."""

    def __init__(
        self,
        model: AdaptedModel,
        *,
        start: Weights,
        references: Mapping[Reference, Weights],
        with_teacher: bool,
        moving_teacher: bool,
    ) -> None:
        self._model = model
        self._pristine = model.tensors()  # they never change: others are put in their place
        self._own = model.prepare({name: tensor.clone() for name, tensor in self.in_full(start).items()})
        model.use(self._own)
        self.parameters: list[nn.Parameter] = list(model.net.requires_grad_(True).parameters())
        self.references: frozenset[Reference] = references_of(references, with_teacher)
        self._tensors: dict[Reference, Prepared] = {"base": model.prepare({})}
        self._tensors |= {name: model.prepare(self.in_full(weights)) for name, weights in references.items()}
        if with_teacher:
            self._tensors["teacher"] = Prepared(tensors={name: tensor.clone() for name, tensor in self._own.tensors.items()})
        self._moves = moving_teacher

    def compute(self, tree: TokenTree, reference: Reference | None) -> tuple[Tensor, Head]:
        return compute_with(self._model, self.prepared(reference), self.prepared(None), tree)

    def prepared(self, reference: Reference | None) -> Prepared:
        return self._own if reference is None else self._tensors[reference]

    def weights(self) -> dict[str, LoraPair | Tensor]:
        return {name: self._model.as_on_disk(name, tensor) for name, tensor in self._own.tensors.items()}

    def in_full(self, weights: Weights) -> dict[str, Tensor]:
        merged = {name: merge(self._pristine[name], given, transposed=name in self._model.transposed) for name, given in weights.items()}
        return self._pristine | merged

    def follow(self, rate: float) -> None:
        with torch.no_grad():
            for name, tensor in self._tensors["teacher"].tensors.items():
                tensor.lerp_(self._own.tensors[name], rate)

    def teacher(self) -> list[Tensor]:
        return list(self._tensors["teacher"].tensors.values()) if self._moves else []
