"""A LoRA adapter in training (Hu et al. 2022), beside frozen base weights; its references are other adapters, or none."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from perdure.learners.model.adapted_model import AdaptedModel, Prepared
from perdure.learners.model.head import Head
from perdure.learners.model.tree import TokenTree
from perdure.learners.trainees.trained_weights import Reference, compute_with, references_of
from perdure.learners.weights.weight_sets import MAX_RANK, LoraPair, Weights
from perdure.memory.errors import InputError


class LoraWeights:
    """An adapter on every linear layer except the head.

    It begins as `start`, with the rank and scale of that; without a start as an adapter that changes nothing. If it is `stacked`, the start
    stays frozen below a new adapter (O-LoRA). A teacher begins as the learner. Raises `InputError` for a model without linear layers, for
    weights that were tuned in full, and if the ranks of stacked adapters are too large together.

    `above` is the adapter in training alone, with gradients, `below` the frozen one under it; empty if there is none.
    """

    def __init__(
        self,
        model: AdaptedModel,
        *,
        rank: int,
        alpha: float,
        start: Weights,
        references: Mapping[Reference, Weights],
        stacked: bool,
        with_teacher: bool,
        moving_teacher: bool,
    ) -> None:
        if not model.layers:
            raise InputError(
                f"{model.files.name} has no Linear or Conv1D layers, so it can carry no adapter: learn with tuning=full, or set another "
                "model"
            )
        own_start, adapters = pairs_of(start), {name: pairs_of(weights) for name, weights in references.items()}
        self._model = model
        self.below = own_start if stacked else {}
        first = {} if stacked else own_start
        rank, scale = shape_of_pairs(first) or (rank, alpha / rank)
        below = shape_of_pairs(self.below)
        if below is not None and below[0] + rank > MAX_RANK:
            raise InputError(
                f"an adapter of rank {rank} beside one of rank {below[0]} exceeds the largest rank, {MAX_RANK}: learn with a smaller rank, "
                "or without olora"
            )
        self.above = {
            name: _trained(first.get(name) or fresh_pair(layer.shape, rank, scale), model.device) for name, layer in model.layers.items()
        }
        self.parameters: list[nn.Parameter] = [part for pair in self.above.values() for part in _parts(pair)]
        self.references: frozenset[Reference] = references_of(references, with_teacher)
        self._references: dict[Reference, Prepared] = {"base": model.prepare({})}
        self._references |= {name: model.prepare(pairs) for name, pairs in adapters.items()}
        self._moves = moving_teacher
        self._teacher = [part.detach().clone() for part in self.parameters] if with_teacher else []
        self._prepared: Prepared | None = None
        self._changes = 0
        """Of the parameters in place, as torch counts them, when they were prepared."""

    def compute(self, tree: TokenTree, reference: Reference | None) -> tuple[Tensor, Head]:
        return compute_with(self._model, self.prepared(reference), self.prepared(None), tree)

    def prepared(self, reference: Reference | None) -> Prepared:
        if reference is None:
            changes = sum(parameter._version for parameter in self.parameters)
            if self._prepared is None or changes != self._changes:
                with torch.enable_grad():
                    self._prepared, self._changes = self._model.prepare(self._stacked(self.above)), changes
            return self._prepared
        if reference == "teacher" and reference not in self._references:
            halves = iter(self._teacher)
            pairs = {name: LoraPair(down_RI=next(halves), up_OR=next(halves), scale=pair.scale) for name, pair in self.above.items()}
            self._references[reference] = self._model.prepare(self._stacked(pairs))
        return self._references[reference]

    def weights(self) -> dict[str, LoraPair | Tensor]:
        stacked = self._stacked(self.above)
        return {
            name: LoraPair(down_RI=pair.down_RI.detach(), up_OR=pair.up_OR.detach(), scale=pair.scale) for name, pair in stacked.items()
        }

    def in_full(self, weights: Weights) -> Weights:
        return weights

    def follow(self, rate: float) -> None:
        with torch.no_grad():
            for teacher, learner in zip(self._teacher, self.parameters, strict=True):
                teacher.lerp_(learner, rate)
        self._references.pop("teacher", None)

    def teacher(self) -> list[Tensor]:
        return self._teacher if self._moves else []

    def _stacked(self, pairs: Mapping[str, LoraPair]) -> dict[str, LoraPair]:
        """These pairs and the frozen ones below them as one adapter: ranks add up, and the scale is that of the upper one."""
        return {name: _sum(self.below[name], pair) if name in self.below else pair for name, pair in pairs.items()}


def pairs_of(weights: Weights) -> dict[str, LoraPair]:
    """The adapter in these weights. Raises `InputError` if they were tuned in full."""
    if any(isinstance(weight, Tensor) for weight in weights.values()):
        raise InputError(
            "an adapter cannot be trained on weights that were tuned in full: learn with tuning=full, or start from another version"
        )
    return {name: pair for name, pair in weights.items() if isinstance(pair, LoraPair)}


def shape_of_pairs(pairs: Mapping[str, LoraPair]) -> tuple[int, float] | None:
    """Rank and scale of an adapter; None if it has no layer."""
    pair = next(iter(pairs.values()), None)
    return None if pair is None else (len(pair.down_RI), pair.scale)


def fresh_pair(shape: tuple[int, int], rank: int, scale: float) -> LoraPair:
    """A fresh adapter of a layer (out, in) that changes nothing: down as torch begins linear layers, up zero (as PEFT does)."""
    down = nn.init.kaiming_uniform_(torch.empty(rank, shape[1]), a=math.sqrt(5))
    return LoraPair(down_RI=down, up_OR=torch.zeros(shape[0], rank), scale=scale)


def _trained(pair: LoraPair, device: torch.device) -> LoraPair:
    down, up = (nn.Parameter(part.detach().to(device, torch.float32, copy=True)) for part in (pair.down_RI, pair.up_OR))
    return LoraPair(down_RI=down, up_OR=up, scale=pair.scale)


def _parts(pair: LoraPair) -> tuple[nn.Parameter, nn.Parameter]:
    assert isinstance(pair.down_RI, nn.Parameter)
    assert isinstance(pair.up_OR, nn.Parameter)
    return pair.down_RI, pair.up_OR


def _sum(below: LoraPair, above: LoraPair) -> LoraPair:
    down = torch.cat([below.down_RI.to(above.down_RI), above.down_RI])
    up = torch.cat([below.up_OR.to(above.up_OR) * (below.scale / above.scale), above.up_OR], 1)
    return LoraPair(down_RI=down, up_OR=up, scale=above.scale)
