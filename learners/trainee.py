"""The model that is trained: a LoRA adapter of a base model, or all of its weights (option `tuning`).

Forward passes run over token trees (`engines/tree.py`), so the prompt of a group and the solved examples of an environment are computed
once, and logits only at positions that predict an action token. *References* have no gradients: the base model, the serving version, the
teacher of a distillation. All use the same precision, so differences between them come from the weights alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from perdure.envs.policy import Ids
from perdure.learners.checkpoint import TrainingState
from perdure.learners.engines.tree import build_tree, context_of
from perdure.learners.options import IterativeSftOptions, LearnOptions, SdftOptions
from perdure.learners.weights.base_models import ModelFiles, four_bits
from perdure.learners.weights.weight_sets import MAX_RANK, LoraPair, Weights, merge
from perdure.memory import faults
from perdure.memory.errors import InputError

Reference = Literal["base", "serving", "teacher"]
LEARNS = "default"
"""PEFT's name of the trained adapter."""
BELOW = "below"
"""The frozen adapter below it, if adapters are stacked (O-LoRA)."""
TEACHER: Literal["teacher"] = "teacher"


class Trainee:
    """A model in training.

    `start` are the weights to begin with, `references` the weights of models to compare with; `base` is always one. A teacher starts with
    the learner's weights, and stays there or follows them. Raises `InputError` for LoRA on weights that were tuned in full, if the rank of
    stacked adapters is too large, if a 4-bit base needs bitsandbytes, and for a model whose attention token trees do not support.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        device: str,
        options: LearnOptions,
        start: Weights | None = None,
        references: Mapping[Reference, Weights] | None = None,
        with_teacher: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.is_lora = options.tuning.tuning == "lora"
        start, references = start or {}, references or {}
        base: Any = AutoModelForCausalLM.from_pretrained(
            files.path,
            dtype=getattr(torch, options.tuning.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            quantization_config=four_bits() if options.tuning.quantized else None,
            device_map={"": device} if options.tuning.quantized else None,
        )
        if not options.tuning.quantized:
            base = base.to(self.device)
        self.vocabulary: int = base.config.vocab_size
        self.context_limit = context_of(base.config)
        self.references: frozenset[Reference] = frozenset({"base", *references, *([TEACHER] if with_teacher else [])})
        self._is_followed = with_teacher and options.of(SdftOptions).teacher == "slow"
        self._tensors: dict[Reference, dict[str, Tensor]] = {}
        """Only with full tuning: the tensors of each reference."""
        self._active: list[str] = [LEARNS]
        if self.is_lora:
            self.model: nn.Module = self._with_adapters(base, options, start, references)
        else:
            self.model = self._in_full(base, start, references)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._start = [parameter.detach().clone() for parameter in self.parameters] if options.of(IterativeSftOptions).restart else []
        self._optimizer = torch.optim.AdamW(self.parameters, betas=(0.9, 0.95), weight_decay=0.0)
        _disable_dropout(self.model)
        if options.tuning.checkpointing:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            base.enable_input_require_grads()
        if options.tuning.checkpointing or options.tuning.quantized:
            # transformers recomputes activations only in training mode. Outside of it, bitsandbytes on a CPU packs weights for inference at
            # the first pass without gradients, and later gradients through packed weights are wrong.
            self.model.train()

    def logprobs(self, turns: Sequence[tuple[Ids, Ids]], temperature: float, reference: Reference | None = None) -> Tensor:
        """Log-probs of all action tokens of each `(prompt_ids, action_ids)`, laid end to end; with gradients, except for a reference."""
        logits_KV, row_A, token_A = self._predict(turns, temperature, reference)
        return logits_KV[row_A, token_A] - logits_KV.logsumexp(-1)[row_A]

    def distributions(self, turns: Sequence[tuple[Ids, Ids]], temperature: float, reference: Reference | None = None) -> Tensor:
        """Log-probs `(A, V)` of the whole vocabulary at each action token, in the same order; with gradients, except for a reference."""
        logits_KV, row_A, _ = self._predict(turns, temperature, reference)
        return logits_KV.log_softmax(-1)[row_A]

    def step(self, lr: float, max_grad_norm: float) -> float:
        """One optimiser step with the accumulated gradient; returns its norm before clipping."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, max_grad_norm))
        faults.point("mid-optimiser-step")
        self._optimizer.step()
        self._optimizer.zero_grad()
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

    def restart(self) -> None:
        """Return to the weights and the optimiser of the start, which are stored if the option `restart` is set."""
        with torch.no_grad():
            for parameter, first in zip(self.parameters, self._start, strict=True):
                parameter.copy_(first)
        self._optimizer.state.clear()

    def weights(self) -> dict[str, LoraPair | Tensor]:
        """The current weights, not a copy, by the parameter names of the base model."""
        if not self.is_lora:
            return {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        return {name: _pair(layer, self._active) for name, layer in self._layers()}

    def in_full(self, weights: Weights) -> dict[str, Tensor]:
        """With full tuning: all tensors of the model with these weights."""
        pristine = self._tensors["base"]
        return pristine | {name: merge(pristine[name], weight) for name, weight in weights.items()}

    def below(self) -> dict[str, LoraPair]:
        """The frozen adapter below a stacked one; empty if there is none."""
        return {name: _pair(layer, [BELOW]) for name, layer in self._layers()} if BELOW in self._active else {}

    def above(self) -> dict[str, LoraPair]:
        """The trained adapter alone, with gradients."""
        return {name: _pair(layer, [LEARNS], detach=False) for name, layer in self._layers()}

    def follow(self, rate: float) -> None:
        """Move the teacher this share of the way to the current weights."""
        with torch.no_grad():
            if not self.is_lora:
                for name, parameter in self.model.named_parameters():
                    self._tensors[TEACHER][name].lerp_(parameter, rate)
                return
            for teacher, learner in zip(self._adapter(TEACHER), self._adapter(LEARNS), strict=True):
                teacher.lerp_(learner, rate)

    def state(self) -> TrainingState:
        """All that is needed to resume: parameters, optimiser, and a teacher that moves."""
        return TrainingState(parameters=self.parameters, optimizer=self._optimizer.state_dict(), teacher=self._teacher())

    def resume(self, state: TrainingState) -> None:
        """Resume from the `state` of a trainee with the same options and start."""
        with torch.no_grad():
            for parameter, saved in zip((*self.parameters, *self._teacher()), (*state.parameters, *state.teacher), strict=True):
                parameter.copy_(saved)
        self._optimizer.load_state_dict(state.optimizer)

    def _predict(self, turns: Sequence[tuple[Ids, Ids]], temperature: float, reference: Reference | None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of K nodes of the tree; for each action token A, the row that predicts it and the token."""
        tree = build_tree([[*prompt, *action] for prompt, action in turns])
        ids_1N, positions_1N, visible_11NN = tree.inputs(self.device)
        predicting = [path[len(prompt) - 1 : len(path) - 1] for path, (prompt, _) in zip(tree.paths, turns, strict=True)]
        wanted = sorted({node for nodes in predicting for node in nodes})
        place = {node: k for k, node in enumerate(wanted)}
        with nullcontext() if reference is None else self._as(reference):
            out = self.model(
                input_ids=ids_1N,
                position_ids=positions_1N,
                attention_mask=visible_11NN,
                use_cache=False,
                logits_to_keep=torch.tensor(wanted, device=self.device),
            )
        logits_KV = out.logits[0].float() / temperature
        row_A = torch.tensor([place[node] for nodes in predicting for node in nodes], device=self.device)
        token_A = torch.tensor([token for _, action in turns for token in action], device=self.device)
        return logits_KV, row_A, token_A

    @contextmanager
    def _as(self, reference: Reference) -> Iterator[None]:
        """Compute with the weights of a reference, without gradients."""
        with torch.no_grad():
            if not self.is_lora:
                with _replaced(self.model, self._tensors[reference]):
                    yield
            else:
                own = [reference] if reference != TEACHER else [*self._active[:-1], TEACHER]
                try:
                    if reference == "base":
                        with cast(PeftModel, self.model).disable_adapter():
                            yield
                    else:
                        self._activate(own, frozen=True)
                        yield
                finally:
                    self._activate(self._active, frozen=False)

    def _with_adapters(self, base: Any, options: LearnOptions, start: Weights, references: Mapping[Reference, Weights]) -> PeftModel:
        if any(isinstance(weight, Tensor) for weights in (start, *references.values()) for weight in weights.values()):
            raise InputError(
                "an adapter cannot be trained on weights that were tuned in full: learn with tuning=full, or start from another version"
            )
        stacked = bool(options.retention.olora and start)
        own = {} if stacked else start
        rank, alpha = _rank(own) or (options.tuning.rank, float(options.tuning.alpha))
        below = _rank(start) if stacked else None
        if below is not None and below[0] + rank > MAX_RANK:
            raise InputError(
                f"an adapter of rank {rank} beside one of rank {below[0]} exceeds the largest rank, {MAX_RANK}: learn with a smaller rank, "
                "or without olora"
            )
        model = cast(PeftModel, get_peft_model(base, _lora(rank, alpha)))
        self.model = model
        self._fill(LEARNS, own)
        others: list[tuple[str, Weights]] = [*references.items(), *([(BELOW, start)] if stacked else [])]
        for name, weights in others:
            model.add_adapter(name, _lora(*(_rank(weights) or (rank, alpha))))
            self._fill(name, weights)
        if TEACHER in self.references:
            model.add_adapter(TEACHER, _lora(rank, alpha))
            with torch.no_grad():
                for teacher, learner in zip(self._adapter(TEACHER), self._adapter(LEARNS), strict=True):
                    teacher.copy_(learner)
        if stacked:
            self._active = [BELOW, LEARNS]
        self._activate(self._active, frozen=False)
        return model

    def _in_full(self, base: nn.Module, start: Weights, references: Mapping[Reference, Weights]) -> nn.Module:
        self._tensors["base"] = {name: parameter.detach().clone() for name, parameter in base.named_parameters()}
        for name, weights in references.items():
            self._tensors[name] = self.in_full(weights)
        with torch.no_grad():
            for key, tensor in self.in_full(start).items():
                base.get_parameter(key).copy_(tensor)
        if TEACHER in self.references:
            self._tensors[TEACHER] = {name: parameter.detach().clone() for name, parameter in base.named_parameters()}
        return base

    def _activate(self, names: Sequence[str], *, frozen: bool) -> None:
        model: Any = self.model
        model.base_model.set_adapter(list(names), inference_mode=frozen)
        if not frozen and BELOW in names:
            for _, layer in self._layers():
                for part in (layer.lora_A, layer.lora_B):
                    part[BELOW].requires_grad_(False)

    def _fill(self, adapter: str, weights: Weights) -> None:
        """Copy weights into an adapter; layers without weights keep PEFT's start, which changes nothing."""
        with torch.no_grad():
            for name, layer in self._layers():
                pair = weights.get(name)
                if isinstance(pair, LoraPair):
                    layer.lora_A[adapter].weight.copy_(pair.down_RI)
                    layer.lora_B[adapter].weight.copy_(pair.up_OR)

    def _teacher(self) -> list[Tensor]:
        """The tensors of a teacher that follows the learner; empty if there is no teacher or it is frozen."""
        if not self._is_followed:
            return []
        return self._adapter(TEACHER) if self.is_lora else list(self._tensors[TEACHER].values())

    def _adapter(self, name: str) -> list[Tensor]:
        """The matrices of an adapter, layer by layer."""
        return [part[name].weight.detach() for _, layer in self._layers() for part in (layer.lora_A, layer.lora_B)]

    def _layers(self) -> Iterable[tuple[str, Any]]:
        """The adapted layers by the parameter names of the base model."""
        for name, module in cast(Any, self.model).base_model.model.named_modules():
            if isinstance(module, LoraLayer):
                yield f"{name}.weight", module


def _lora(rank: int, alpha: float) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=cast(int, alpha), target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0)


def _rank(weights: Weights) -> tuple[int, float] | None:
    """Rank and alpha of an adapter, its scale being alpha / rank; None if there is no adapter."""
    pair = next(iter(weights.values()), None)
    return (len(pair.down_RI), pair.scale * len(pair.down_RI)) if isinstance(pair, LoraPair) else None


def _pair(layer: Any, adapters: Sequence[str], *, detach: bool = True) -> LoraPair:
    """The sum of these adapters as one pair: ranks add up, and the scale is that of the last."""
    scale = float(layer.scaling[adapters[-1]])
    downs = [layer.lora_A[name].weight for name in adapters]
    ups = [layer.lora_B[name].weight * (layer.scaling[name] / scale) for name in adapters[:-1]] + [layer.lora_B[adapters[-1]].weight]
    down, up = (downs[0], ups[0]) if len(adapters) == 1 else (torch.cat(downs), torch.cat(ups, 1))
    return LoraPair(down_RI=down.detach(), up_OR=up.detach(), scale=scale) if detach else LoraPair(down_RI=down, up_OR=up, scale=scale)


@contextmanager
def _replaced(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Compute with other tensors inside this context."""
    own = {name: model.get_parameter(name).data for name in tensors}
    for name, tensor in tensors.items():
        model.get_parameter(name).data = tensor
    try:
        yield
    finally:
        for name, tensor in own.items():
            model.get_parameter(name).data = tensor


def _disable_dropout(model: nn.Module) -> None:
    """Dropout would make the log-probs differ from those of the policy that sampled."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
