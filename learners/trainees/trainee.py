"""A model in training: its predictions on the turns of lessons, and steps of its weights.

*References* have no gradients: the base model, the serving version, the teacher of a distillation. All use the same precision and the same
base weights, so differences between them come from what was learned alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perdure.envs.policy import Ids
from perdure.learners.checkpoint import TrainingState, state_bytes
from perdure.learners.hardware import free_bytes
from perdure.learners.model.adapted_model import AdaptedModel
from perdure.learners.options import IterativeSftOptions, LearnOptions, SdftOptions
from perdure.learners.ranks.ranks import ALONE, Ranks, leads
from perdure.learners.trainees.full_weights import FullWeights
from perdure.learners.trainees.lora_weights import LoraWeights
from perdure.learners.trainees.trained_weights import Reference, TrainedModel, TrainedWeights
from perdure.learners.trainees.turn_tree import Predictions, TurnTree, turn_tree
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import LoraPair, Weights
from perdure.memory import faults

MEMORY_SHARE = 0.8
"""Of the free memory that a pass may take."""
log = logging.getLogger("perdure.learners")


class Trainee:
    """A model, what of it is trained, and the optimiser. `is_restartable` stores the first weights for `restart`.

    Of several `ranks` each has such a trainee, with the same weights. What changes them is done by all: the first tells the others.
    """

    def __init__(self, model: TrainedModel, trained: TrainedWeights, *, is_restartable: bool = False, ranks: Ranks = ALONE) -> None:
        self.model, self.trained, self.device, self.ranks = model, trained, model.device, ranks
        self._start = [parameter.detach().clone() for parameter in trained.parameters] if is_restartable else []
        self._optimizer = torch.optim.AdamW(trained.parameters, betas=(0.9, 0.95), weight_decay=0.0)

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        return self.trained.parameters

    @property
    def references(self) -> frozenset[Reference]:
        return self.trained.references

    @property
    def context_limit(self) -> int:
        """The longest sequence, in tokens, that the model can learn from."""
        return self.model.context_limit

    @property
    def in_step(self) -> bool:
        """Whether the ranks compute each layer together, because each has a part of it."""
        return False

    @property
    def vocabulary(self) -> int:
        """Tokens that the model knows."""
        return self.model.vocabulary

    def weights(self) -> dict[str, LoraPair | Tensor]:
        """The current weights, not a copy, by the parameter names of the base model."""
        return self.trained.weights()

    def follow(self, rate: float) -> None:
        """Move the teacher this share of the way to the current weights."""
        self.ranks.tell("follow", str(rate).encode())
        self.trained.follow(rate)

    @property
    def serving(self) -> Reference:
        """The version that served at the start; the base model if it was that."""
        return "serving" if "serving" in self.references else "base"

    def nodes_at_once(self, budget_tokens: int) -> int:
        """Nodes of the largest tree of one pass: half of the budget in float32, which takes twice the memory, and no more than has room."""
        wanted = budget_tokens * 2 // self.model.dtype.itemsize
        fitting = int(MEMORY_SHARE * free_bytes(self.device)) // self.model.bytes_per_node
        if fitting < wanted:
            log.debug("%d instead of %d tokens at once: there is no memory for more", fitting, wanted)
        return max(1, min(wanted, fitting))

    def tree(self, turns: Sequence[tuple[Ids, Ids]]) -> TurnTree:
        """The tree of each `(prompt_ids, action_ids)`."""
        return turn_tree(turns, self.device)

    def predict(self, tree: TurnTree, reference: Reference | None = None) -> Predictions:
        """Predictions with gradients if they are enabled, or those of a reference, without."""
        with torch.set_grad_enabled(reference is None and torch.is_grad_enabled()):
            hidden_NC, head = self.trained.compute(tree.tree, reference)
            return Predictions(on=tree, hidden_KC=hidden_NC[tree.node_K], head=head)

    def logprobs(self, turns: Sequence[tuple[Ids, Ids]], temperature: float, reference: Reference | None = None) -> Tensor:
        """Log-probs of all action tokens of the turns, laid end to end."""
        return self.predict(self.tree(turns), reference).logprobs(temperature)

    def step(self, lr: float, max_grad_norm: float) -> float:
        """One optimiser step with the accumulated gradient; returns its norm before clipping."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        norm = self._clipped(max_grad_norm)
        faults.point("mid-optimiser-step")
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self.ranks.count > 1:
            self._agree()
        return norm

    def release_memory(self) -> None:
        """Free memory that torch only keeps in reserve on a GPU: an engine may need it."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def take_gradient(self) -> Tensor:
        """Take the accumulated gradient of all parameters, laid end to end in float32, and reset it."""
        flat_P = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).float().flatten() for p in self.parameters])
        self._optimizer.zero_grad()
        return flat_P

    def put_gradient(self, flat_P: Tensor) -> None:
        """Set the accumulated gradient."""
        for parameter, part in zip(self.parameters, flat_P.split([p.numel() for p in self.parameters]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def add_up_gradient(self) -> None:
        """Make the accumulated gradient that of all ranks."""
        if self.ranks.count == 1:
            return
        has = [any(given) for given in zip(*self.ranks.gather(bytes(p.grad is not None for p in self.parameters)), strict=True)]
        touched = [parameter for parameter, any_has in zip(self.parameters, has, strict=True) if any_has]
        for parameter in touched:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.ranks.add_up([parameter.grad for parameter in touched if parameter.grad is not None])

    def is_finite(self) -> bool:
        """Whether all weights in training are finite."""
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters)

    def put_parameters(self, parameters: Sequence[Tensor]) -> None:
        """Take these weights for what comes after the last update."""
        self._copy(parameters)

    def restart(self) -> None:
        """Return to the weights and the optimiser of the start."""
        self.ranks.tell("restart")
        self._copy(self._start)
        self._optimizer.state.clear()

    def state(self) -> TrainingState:
        """All that is needed to resume: parameters, optimiser, and a teacher that moves."""
        return TrainingState(parameters=self.parameters, optimizer=self._optimizer.state_dict(), teacher=self.trained.teacher())

    def resume(self, state: TrainingState) -> None:
        """Resume from the `state` of a trainee with the same options and start, whatever number of ranks it had."""
        if leads(self.ranks):
            self.ranks.tell("resume", state_bytes(state))
        self._copy((*state.parameters, *state.teacher))
        self._load(state.optimizer)

    def _load(self, optimizer: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(optimizer)

    def _clipped(self, max_grad_norm: float) -> float:
        """Scale the gradient down to this norm; gives the norm that it had."""
        return float(torch.nn.utils.clip_grad_norm_(self.parameters, max_grad_norm))

    def _agree(self) -> None:
        """Give all ranks the weights and the optimiser of the first if they differ: processors of another kind may round otherwise."""
        sums = torch.stack([torch.stack([one.detach().double().sum(), one.detach().double().square().sum()]) for one in self.parameters])
        if len(set(self.ranks.gather(sums.cpu().numpy().tobytes()))) > 1:
            log.warning("the ranks have rounded otherwise: they go on with the weights of the first")
            moments = [one for moment in self._optimizer.state.values() for one in moment.values() if isinstance(one, Tensor)]
            self.ranks.spread([*self.parameters, *moments])

    def _copy(self, tensors: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for own, saved in zip((*self.parameters, *self.trained.teacher()), tensors, strict=False):
                own.copy_(saved)


def open_trainee(
    files: ModelFiles,
    *,
    device: str,
    dtype: torch.dtype,
    options: LearnOptions,
    start: Weights | None = None,
    references: Mapping[Reference, Weights] | None = None,
    with_teacher: bool = False,
    shared: AdaptedModel | None = None,
    ranks: Ranks = ALONE,
) -> Trainee:
    """Train from `start`, in comparison with `references`; `base` is always one.

    `dtype` is the precision of the products, and `shared` the engine's model, which an adapter shares if it has that precision. Raises
    `InputError` as `AdaptedModel` and `LoraWeights` do.
    """
    start, references = start or {}, references or {}
    moves = with_teacher and options.of(SdftOptions).teacher == "slow"
    is_own = (
        shared is None
        or options.tuning.tuning == "full"
        or options.tuning.quantized
        or options.tuning.checkpointing
        or shared.dtype != dtype
    )
    model = AdaptedModel(files, device=device, dtype=dtype, quantized=options.tuning.quantized) if is_own or shared is None else shared
    if options.tuning.checkpointing:
        model.recompute_activations()
    trained: TrainedWeights
    if options.tuning.tuning == "full":
        trained = FullWeights(model, start=start, references=references, with_teacher=with_teacher, moving_teacher=moves)
    else:
        trained = LoraWeights(
            model,
            rank=options.tuning.rank,
            alpha=options.tuning.alpha,
            start=start,
            references=references,
            stacked=bool(options.retention.olora and start),
            with_teacher=with_teacher,
            moving_teacher=moves,
        )
    return Trainee(model, trained, is_restartable=options.of(IterativeSftOptions).restart, ranks=ranks)
