"""What every learner can be told. Defaults are those of the first real gain on two CPU cores (docs/learning.md has the measurements)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perdure.memory.errors import InputError


class LearnOptions(BaseModel):
    """Options of one learning job; `perdure learn --option name=value` and `[learn.options]` in perdure.toml take the same names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    updates: int = Field(12, ge=1, description="optimiser steps")
    prompts: int = Field(16, ge=1, description="tasks in one batch, old environments included")
    samples: int = Field(8, ge=2, description="episodes of each task of a target (the group size G)")
    replay_samples: int = Field(4, ge=2, description="episodes of each replayed task")
    lr: float = Field(5e-4, gt=0, le=1, description="learning rate of AdamW; it falls linearly to zero over the updates")
    seed: int = Field(0, ge=0, description="decides the tasks; in a run it is that of the configuration unless set")
    replay: float = Field(0.5, ge=0, lt=1, description="share of a batch that plays old environments again with the current step")
    replay_weight: float = Field(0.3, ge=0, description="weight of the cross-entropy on replayed groups that all succeeded")
    kl: float = Field(0.0, ge=0, description="weight of the KL term to the serving version on the targets' prompts")
    kl_old: float = Field(0.2, ge=0, description="weight of the KL term to the serving version on old environments' prompts")
    rounds: int = Field(4, ge=1, description="iterative-sft: how often fresh episodes are sampled; the updates are spread over the rounds")
    rank: int = Field(16, ge=1, le=256, description="rank of the LoRA adapter")
    alpha: int = Field(32, ge=1, description="LoRA scale: alpha / rank")
    temperature: float = Field(1.0, gt=0, le=10, description="sampling temperature of the learner's own episodes")
    ratio_cap: float = Field(2.0, gt=0, description="truncation of the importance ratio between learner and sampler")
    max_grad_norm: float = Field(1.0, gt=0, description="the gradient is scaled down to this norm")
    budget_tokens: int = Field(512, ge=16, description="nodes of one token tree in a training pass: memory against speed")


def parse_options(given: Mapping[str, Any]) -> LearnOptions:
    """Check options, as text or as values. Raises `InputError` naming each that is wrong."""
    try:
        return LearnOptions.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise InputError(f"no option {name!r}: there are {', '.join(LearnOptions.model_fields)}") from error
        raise InputError(f"option {name}={first['input']!r}: {first['msg'].lower()}") from error


LEARNERS: tuple[str, ...] = ("grpo", "iterative-sft")
"""The learners there are, by the names that commands take."""
