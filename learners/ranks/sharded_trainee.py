"""A model in training of which each rank of a job has a part: weights, gradients and optimiser are spread (`sharded_model.py`).

What the first rank writes, a checkpoint or a version, is whole, so that any number of ranks reads it, sharded or not. To gather it is told
to all ranks, once after each update. Left out: EWC, GEM and O-LoRA, which need all parameters laid end to end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from perdure.learners.checkpoint import TrainingState
from perdure.learners.model.head import Head
from perdure.learners.model.loading import load_net
from perdure.learners.model.tree import TokenTree
from perdure.learners.options import IterativeSftOptions, LearnOptions, SdftOptions
from perdure.learners.ranks.ranks import Ranks, leads
from perdure.learners.ranks.sharded_model import OWN, Adapters, Shapes, ShardedModel
from perdure.learners.trainees.lora_weights import fresh_pair, pairs_of, shape_of_pairs
from perdure.learners.trainees.trained_weights import Reference, references_of
from perdure.learners.trainees.trainee import Trainee
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import LoraPair, Weights, merge_into
from perdure.memory.errors import InputError

TEACHER = "teacher"


class ShardedLora:
    """Adapters of one sharded model: that in training, and those of the references."""

    def __init__(self, model: ShardedModel, scale: float, references: frozenset[Reference], moves: bool) -> None:
        self.models = [model]
        self._model, self._scale, self.references, self._moves = model, scale, references, moves

    @property
    def parameters(self) -> list[nn.Parameter]:
        return self._model.adapter(OWN)

    def compute(self, tree: TokenTree, reference: Reference | None) -> tuple[Tensor, Head]:
        return self._model.compute(tree, OWN if reference is None else None if reference == "base" else reference)

    def weights(self) -> dict[str, LoraPair | Tensor]:
        return self.weights_of([_whole(one) for one in self.parameters])

    def weights_of(self, parameters: Sequence[Tensor]) -> dict[str, LoraPair | Tensor]:
        halves = iter(parameters)
        return {name: LoraPair(down_RI=next(halves), up_OR=next(halves), scale=self._scale) for name in self._model.layers}

    def in_full(self, weights: Weights) -> Weights:
        return weights

    def follow(self, rate: float) -> None:
        _follow(self._model.adapter(TEACHER), self.parameters, rate)

    def teacher(self) -> list[Tensor]:
        return [*self._model.adapter(TEACHER)] if self._moves else []


class ShardedFull:
    """All weights of a sharded model in training; its references are sharded models too."""

    def __init__(self, model: ShardedModel, references: Mapping[Reference, ShardedModel], moves: bool) -> None:
        self.models = [model, *references.values()]
        self._model, self._references, self._moves = model, references, moves
        self.references = frozenset(references)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self._model.parameters())

    def compute(self, tree: TokenTree, reference: Reference | None) -> tuple[Tensor, Head]:
        return (self._model if reference is None else self._references[reference]).compute(tree, None)

    def weights(self) -> dict[str, LoraPair | Tensor]:
        return self.weights_of([_whole(one) for one in self.parameters])

    def weights_of(self, parameters: Sequence[Tensor]) -> dict[str, LoraPair | Tensor]:
        return dict(zip(self._model.names, parameters, strict=True))

    def in_full(self, weights: Weights) -> Weights:
        net = load_net(self._model.files, device="cpu", dtype=torch.float32, quantized=False).float()
        merge_into(net, weights)
        return {name: parameter.data for name, parameter in net.named_parameters()}

    def follow(self, rate: float) -> None:
        _follow(list(self._references["teacher"].parameters()), self.parameters, rate)

    def teacher(self) -> list[Tensor]:
        return list(self._references["teacher"].parameters()) if self._moves else []


class ShardedTrainee(Trainee):
    """A trainee whose ranks compute each layer together. What it gives away is whole, and kept by the first rank until weights change."""

    trained: ShardedLora | ShardedFull

    def __init__(self, model: ShardedModel, trained: ShardedLora | ShardedFull, *, is_restartable: bool, ranks: Ranks) -> None:
        super().__init__(model, trained, is_restartable=is_restartable, ranks=ranks)
        self._state: TrainingState | None = None

    @property
    def in_step(self) -> bool:
        return True

    def weights(self) -> dict[str, LoraPair | Tensor]:
        return self.trained.weights_of(self.state().parameters)

    def follow(self, rate: float) -> None:
        self._change()
        super().follow(rate)

    def restart(self) -> None:
        self._change()
        super().restart()

    def step(self, lr: float, max_grad_norm: float) -> float:
        self._change()
        return super().step(lr, max_grad_norm)

    def add_up_gradient(self) -> None:
        """Does nothing: each layer's gradient was added up with it."""

    def is_finite(self) -> bool:
        finite = all(bool(_local(one).isfinite().all()) for one in self.parameters)
        return all(answer == b"1" for answer in self.ranks.gather(b"1" if finite else b"0"))

    def put_parameters(self, parameters: Sequence[Tensor]) -> None:
        self._state = replace(self.state(), parameters=list(parameters))

    def state(self) -> TrainingState:
        """All that is needed to resume, whole; every rank takes part, and only the first gets it."""
        if self._state is not None:
            return self._state
        if leads(self.ranks):
            self.ranks.tell("gather")
        with self.ranks.reporting(), torch.no_grad():
            optimizer = self._optimizer.state_dict()
            kept: dict[int, dict[str, Any]] = {
                n: {key: self._taken(one) for key, one in of.items()} for n, of in optimizer["state"].items()
            }
            state = TrainingState(
                parameters=[self._taken(one) for one in self.parameters],
                optimizer={**optimizer, "state": kept},
                teacher=[self._taken(one) for one in self.trained.teacher()],
            )
        if leads(self.ranks):
            self._state = state
        return state

    def resume(self, state: TrainingState) -> None:
        self._change()
        super().resume(state)

    def _copy(self, tensors: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for own, saved in zip((*self.parameters, *self.trained.teacher()), tensors, strict=False):
                own.copy_(_part(saved, own))

    def _load(self, optimizer: dict[str, Any]) -> None:
        own = self.parameters
        spread = {n: {key: _part(one, own[n]) for key, one in of.items()} for n, of in optimizer["state"].items()}
        super()._load({**optimizer, "state": spread})

    def _clipped(self, max_grad_norm: float) -> float:
        return float(_whole(torch.nn.utils.clip_grad_norm_(self.parameters, max_grad_norm)))

    def _taken(self, value: Tensor) -> Tensor:
        """A whole tensor on the CPU of the first rank; the others only take part."""
        whole = _whole(value)
        return whole.detach().to("cpu", copy=True) if leads(self.ranks) else whole.new_empty(0)

    def _change(self) -> None:
        self._state = None
        for model in self.trained.models:
            model.reshard()

    def _agree(self) -> None:
        """Does nothing: no part is on two ranks."""


def open_sharded(
    files: ModelFiles,
    *,
    device: str,
    dtype: torch.dtype,
    options: LearnOptions,
    start: Weights,
    references: Mapping[Reference, Weights],
    with_teacher: bool,
    ranks: Ranks,
) -> ShardedTrainee:
    """What `trainee.py:open_trainee` opens with sharded=true. Raises `InputError` for what cannot be sharded."""
    _require_shardable(options, ranks)
    tuning, moves = options.tuning, with_teacher and options.of(SdftOptions).teacher == "slow"
    shape: dict[str, Any] = {"device": device, "dtype": dtype, "ranks": ranks.count}
    trained: ShardedLora | ShardedFull
    if tuning.tuning == "full":
        given: dict[Reference, Weights] = {"base": {}, **references, **({"teacher": start} if with_teacher else {})}
        model = ShardedModel(files, **shape, weights=start, trained=True, checkpointing=tuning.checkpointing)
        trained = ShardedFull(model, {name: ShardedModel(files, **shape, weights=weights) for name, weights in given.items()}, moves)
    else:
        pairs, first = {name: pairs_of(weights) for name, weights in references.items()}, pairs_of(start)
        rank, scale = shape_of_pairs(first) or (tuning.rank, tuning.alpha / tuning.rank)

        def adapters(shapes: Shapes) -> Adapters:
            own = {name: first.get(name) or fresh_pair(shape, rank, scale) for name, shape in shapes.items()}
            return {OWN: own, **pairs, **({TEACHER: own} if with_teacher else {})}

        model = ShardedModel(files, **shape, adapters=adapters, checkpointing=tuning.checkpointing)
        if not model.layers:
            raise InputError(f"{files.name} has no linear layers, so it can carry no adapter: learn with tuning=full, or set another model")
        trained = ShardedLora(model, scale, references_of(references, with_teacher), moves)
    return ShardedTrainee(model, trained, is_restartable=options.of(IterativeSftOptions).restart, ranks=ranks)


def _require_shardable(options: LearnOptions, ranks: Ranks) -> None:
    """Raise `InputError` for options that do not go together with sharded=true."""
    if ranks.count == 1:
        raise InputError("sharded=true needs a job of several ranks: set cluster.learners, start the job with torchrun, or leave it out")
    retention = options.retention
    used = {"ewc": retention.ewc > 0, "gem": retention.gem != "off", "olora": retention.olora > 0, "quantized": options.tuning.quantized}
    for name in (name for name, is_used in used.items() if is_used):
        raise InputError(f"{name} does not go together with sharded=true, which spreads the weights over ranks: leave one of them out")


def _follow(teacher: Sequence[Tensor], own: Sequence[Tensor], rate: float) -> None:
    with torch.no_grad():
        for one, other in zip(teacher, own, strict=True):
            _local(one).lerp_(_local(other), rate)


def _local(value: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


def _whole(value: Tensor) -> Tensor:
    """A tensor with the parts of all ranks, which all ask for it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _part(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, spread as another is of the same shape; others stay as they are."""
    if isinstance(whole, DTensor) or not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    moved = whole.detach().to(like.device, like.dtype)
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)
