"""The model that learns: a base model in fp32 with one LoRA adapter.

Forward passes run over token trees (`engines/tree.py`), so the prompt of a group and the solved examples of an environment cost one pass,
and logits are computed only where an action token is predicted. fp32, because bfloat16 was slower for training on CPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from perdure.learners.adapters import adapter_rank
from perdure.learners.engines.tree import build_tree
from perdure.learners.engines.weights import LoraPair
from perdure.learners.models import ModelFiles
from perdure.memory import faults


class Trainee:
    """A base model with an adapter that gradients flow into. `start` is an adapter folder to go on from; None starts at the base."""

    def __init__(self, files: ModelFiles, *, device: str, rank: int, alpha: float, start: Path | None) -> None:
        base: Any = AutoModelForCausalLM.from_pretrained(
            files.path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, attn_implementation="sdpa"
        )
        if start is not None:
            rank, alpha = adapter_rank(start)
        config = LoraConfig(r=rank, lora_alpha=cast(int, alpha), target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0)
        self.model = cast(PeftModel, get_peft_model(base.to(device), config))
        if start is not None:
            set_peft_model_state_dict(self.model, load_file(start / "adapter_model.safetensors"))
        self.model.eval()  # gradients flow all the same; a base model with dropout would not compute what was sampled from
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._device = torch.device(device)
        self._optimizer = torch.optim.AdamW(self.parameters, betas=(0.9, 0.95), weight_decay=0.0)

    def action_logprobs(self, turns: Sequence[tuple[Sequence[int], Sequence[int]]], temperature: float) -> Tensor:
        """Log-probs, with gradients, of every action token of each `(prompt_ids, action_ids)`, laid end to end.

        Axes: N nodes of the tree, K nodes whose logits are wanted, A action tokens.
        """
        tree = build_tree([[*prompt, *action] for prompt, action in turns])
        ids_1N, positions_1N, visible_11NN = tree.inputs(self._device)
        predicting = [path[len(prompt) - 1 : len(path) - 1] for path, (prompt, _) in zip(tree.paths, turns, strict=True)]
        wanted = sorted({node for nodes in predicting for node in nodes})
        place = {node: k for k, node in enumerate(wanted)}
        out = self.model(
            input_ids=ids_1N,
            position_ids=positions_1N,
            attention_mask=visible_11NN,
            use_cache=False,
            logits_to_keep=torch.tensor(wanted, device=self._device),
        )
        logits_KV = out.logits[0].float() / temperature
        row_A = torch.tensor([place[node] for nodes in predicting for node in nodes], device=self._device)
        token_A = torch.tensor([token for _, action in turns for token in action], device=self._device)
        logp_A: Tensor = logits_KV[row_A, token_A] - logits_KV.logsumexp(-1)[row_A]
        return logp_A

    def step(self, lr: float, max_grad_norm: float) -> float:
        """One optimiser step on the gathered gradients; returns their norm before clipping."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, max_grad_norm))
        faults.point("mid-optimiser-step")
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def table(self) -> dict[str, LoraPair]:
        """The adapter as it stands, by the parameter names of the base model, to be merged for sampling."""
        table = {}
        for name, module in cast(Any, self.model.base_model.model).named_modules():
            if isinstance(module, LoraLayer):
                layer = cast(Any, module)
                down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                table[f"{name}.weight"] = LoraPair(down_RI=down.detach(), up_OR=up.detach(), scale=float(layer.scaling["default"]))
        return table

    def save(self, folder: Path) -> None:
        """Write PEFT's `adapter_config.json` and `adapter_model.safetensors`."""
        self.model.save_pretrained(str(folder))
