"""Options of learners. The defaults gave the first real gain on two CPU cores (docs/measurements.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from perdure.memory.contracts.orders import OptionValue
from perdure.memory.errors import InputError

LEARNERS: tuple[str, ...] = ("grpo", "reinforce", "iterative-sft", "self-sft", "trace-sft", "sft", "sdft")
"""The names of all learners."""

ENVIRONMENT = "environment"
"""The source of rewards that every episode has."""
ORACLE = "oracle"
"""Demonstrations by the environment's own oracle."""


class LearnOptions(BaseModel):
    """Options of one learning job, named as in `perdure learn --option name=value` and in `[learn.options]` of perdure.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    updates: int = Field(12, ge=1, description="number of updates")
    prompts: int = Field(16, ge=1, description="tasks in one batch, including those of old environments")
    samples: int = Field(8, ge=2, description="episodes of each target task (the group size G)")
    lr: float = Field(5e-4, gt=0, le=1, description="learning rate of AdamW; falls linearly to zero over the updates")
    seed: int = Field(0, ge=0, description="seed of the tasks; by default that of the configuration")
    temperature: float = Field(1.0, gt=0, le=10, description="sampling temperature while learning")
    rewards: str = Field(
        ENVIRONMENT,
        min_length=1,
        description="source of rewards: environment, the name of a source of stored rewards, or a reward model py:MODULE:CLASS",
    )

    replay: float = Field(0.5, ge=0, lt=1, description="share of a batch that replays old environments with the current weights")
    replay_samples: int = Field(4, ge=2, description="episodes of each replayed task")
    replay_weight: float = Field(0.3, ge=0, description="weight of the cross-entropy on replayed groups in which all episodes succeeded")
    stored: float = Field(0.0, ge=0, lt=1, description="share of the replay taken from stored episodes, with importance ratios")
    kl: float = Field(0.0, ge=0, description="weight of KL to the serving version on the targets' episodes, or on fixed data")
    kl_old: float = Field(0.2, ge=0, description="weight of KL to the serving version on episodes of old environments")
    kl_estimator: Literal["k2", "k3"] = Field("k2", description="estimator of KL from samples: k2 or k3")
    ewc: float = Field(0.0, ge=0, description="weight of elastic weight consolidation (EWC) for old environments")
    lwf: float = Field(0.0, ge=0, description="weight of learning without forgetting (LwF): KL from the serving version on the batch")
    olora: float = Field(0.0, ge=0, description="weight of O-LoRA: trains a new adapter orthogonal to the old one; the rank grows")
    gem: Literal["off", "a-gem", "gem"] = Field(
        "off", description="off, a-gem or gem: project the gradient so that it does not raise the loss on old episodes"
    )
    memory: int = Field(32, ge=1, description="stored successes of each old environment that ewc and gem use")
    interpolate: float = Field(1.0, gt=0, le=1, description="position of the candidate between the start (0) and the learned weights (1)")

    variant: Literal["centred", "grpo", "dr_grpo", "dapo", "rloo", "cispo", "gspo"] = Field(
        "centred", description="policy gradients: centred, grpo, dr_grpo, dapo, rloo, cispo or gspo"
    )
    mask_truncated: bool = Field(False, description="policy gradients: leave out answers cut off at max_tokens (DAPO's overlong filtering)")
    passes: int = Field(
        1, ge=1, description="policy gradients: optimiser steps on each batch; ratios are clipped only if there are several"
    )
    refill: int = Field(0, ge=0, description="grpo: times that groups with equal rewards are replaced by new groups (dynamic sampling)")
    rounds: int = Field(4, ge=1, description="iterative-sft: rounds of sampling; the updates are spread over the rounds")
    hints: bool = Field(False, description="iterative-sft: retry failed tasks with the right answer as a hint (STaR)")
    restart: bool = Field(False, description="iterative-sft: every round begins from the start's weights (ReST-EM)")
    per_task: int = Field(8, ge=1, description="iterative-sft, self-sft: most successes imitated of one group; trace-sft: of one task")
    epochs: int = Field(2, ge=1, description="self-sft, trace-sft, sft: passes over the episodes")
    demos: str = Field(ORACLE, min_length=1, description="sft: oracle, or a file of solved examples")
    style: Literal["terse", "styled"] = Field("terse", description="sft: terse, or styled for right answers in the model's own words")
    traces: str = Field("stream", min_length=1, description="trace-sft: stream for live play, the number of a job, or import:LABEL")
    staleness: int = Field(
        1000,
        ge=0,
        description="trace-sft, ewc, gem: most promotions and rollbacks (or updates of a job) since an episode was sampled",
    )
    teacher: Literal["frozen", "slow"] = Field("frozen", description="sdft: frozen, or slow to follow the learner")
    teacher_rate: float = Field(
        0.05, gt=0, le=1, description="sdft: share of the way to the learner that a slow teacher moves at each update"
    )
    direction: Literal["reverse", "forward"] = Field(
        "reverse", description="sdft: reverse for KL(learner, teacher), or forward for KL(teacher, learner)"
    )

    tuning: Literal["lora", "full"] = Field("lora", description="lora, or full for all weights")
    rank: int = Field(16, ge=1, le=256, description="rank of the LoRA adapter")
    alpha: int = Field(32, ge=1, description="numerator of the LoRA scale alpha / rank")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="precision of the base model in learning: float32 or bfloat16")
    quantized: bool = Field(False, description="4-bit base model in learning (QLoRA; needs bitsandbytes)")
    checkpointing: bool = Field(False, description="recompute activations: less memory, a third more time")
    ratio_cap: float = Field(2.0, gt=0, description="upper limit of the importance ratio between learner and sampler")
    max_grad_norm: float = Field(1.0, gt=0, description="largest norm of the gradient; a larger one is scaled down")
    budget_tokens: int = Field(
        512, ge=16, description="most tokens of one training pass, shared ones counted once; less takes less memory and more time"
    )
    measure: int = Field(8, ge=0, description="episodes on which each update measures KL to the base and serving versions; 0 for none")

    @model_validator(mode="after")
    def _fits_together(self) -> LearnOptions:
        if self.tuning == "full" and (self.quantized or self.olora or self.dtype != "float32"):
            raise ValueError("tuning=full trains all weights in float32: quantized, olora and dtype=bfloat16 need tuning=lora")
        return self


GROUPS: Mapping[str, tuple[str, ...]] = {
    "Every learner": ("updates", "prompts", "samples", "lr", "seed", "temperature", "rewards", "ratio_cap", "max_grad_norm", "measure"),
    "Every learner: retention of old skills": (
        *("replay", "replay_samples", "replay_weight", "stored", "kl", "kl_old", "kl_estimator"),
        *("ewc", "lwf", "olora", "gem", "memory", "interpolate"),
    ),
    "Every learner: trained weights and memory": (*("tuning", "rank", "alpha", "dtype", "quantized", "checkpointing", "budget_tokens"),),
    "Some learners, named first": (
        *("variant", "mask_truncated", "passes", "refill", "rounds", "hints", "restart", "per_task", "epochs", "demos", "style"),
        *("traces", "staleness", "teacher", "teacher_rate", "direction"),
    ),
}
"""Every option once, in the groups of the help."""


def parse_options(given: Mapping[str, OptionValue]) -> LearnOptions:
    """Check options, given as text or as values. Raises `InputError` naming the first wrong one."""
    try:
        return LearnOptions.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise InputError(f"no option {name!r}: there are {', '.join(LearnOptions.model_fields)}") from error
        if not name:
            raise InputError(first["msg"].removeprefix("Value error, ")) from error
        raise InputError(f"option {name}={first['input']!r}: {first['msg'].lower()}") from error
