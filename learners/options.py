"""What every learner can be told. Defaults are those of the first real gain on two CPU cores (docs/learning.md has the measurements)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from perdure.memory.errors import InputError

LEARNERS: tuple[str, ...] = ("grpo", "reinforce", "iterative-sft", "self-sft", "trace-sft", "sft", "sdft")
"""The learners there are, by the names that commands take."""

ENVIRONMENT = "environment"
"""The source of rewards that every episode has."""
ORACLE = "oracle"
"""The source of demonstrations that an environment may have."""


class LearnOptions(BaseModel):
    """Options of one learning job; `perdure learn --option name=value` and `[learn.options]` in perdure.toml take the same names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    updates: int = Field(12, ge=1, description="optimiser steps")
    prompts: int = Field(16, ge=1, description="tasks in one batch, old environments included")
    samples: int = Field(8, ge=2, description="episodes of each task of a target (the group size G)")
    lr: float = Field(5e-4, gt=0, le=1, description="learning rate of AdamW; it falls linearly to zero over the updates")
    seed: int = Field(0, ge=0, description="decides the tasks; in a run it is that of the configuration unless set")
    temperature: float = Field(1.0, gt=0, le=10, description="sampling temperature of the learner's own episodes")
    rewards: str = Field(
        ENVIRONMENT, min_length=1, description="where rewards come from: environment, the source of stored ones, or a model py:MODULE:CLASS"
    )

    replay: float = Field(0.5, ge=0, lt=1, description="share of a batch that plays old environments again with the current step")
    replay_samples: int = Field(4, ge=2, description="episodes of each replayed task")
    replay_weight: float = Field(0.3, ge=0, description="weight of the cross-entropy on replayed groups that all succeeded")
    stored: float = Field(0.0, ge=0, lt=1, description="share of the replay that is stored episodes, with importance ratios")
    kl: float = Field(
        0.0, ge=0, description="weight of the KL term to the serving version on the targets' prompts (fixed data: on what is imitated)"
    )
    kl_old: float = Field(0.2, ge=0, description="weight of the KL term to the serving version on old environments' prompts")
    kl_estimator: Literal["k2", "k3"] = Field("k2", description="k2 or k3: how a KL term is computed from samples")
    ewc: float = Field(0.0, ge=0, description="weight of elastic weight consolidation on old environments")
    lwf: float = Field(0.0, ge=0, description="weight of learning without forgetting: the serving version's distributions on the batch")
    olora: float = Field(0.0, ge=0, description="weight of O-LoRA: a new adapter beside the old one, orthogonal to it; the rank grows")
    gem: Literal["off", "a-gem", "gem"] = Field("off", description="off, a-gem or gem: the gradient may not raise the loss on old episodes")
    memory: int = Field(32, ge=1, description="stored successes of each old environment that ewc and gem look at")
    interpolate: float = Field(1.0, gt=0, le=1, description="how far the candidate goes from where it started to what was learned")

    variant: Literal["centred", "grpo", "dr_grpo", "dapo", "rloo", "cispo", "gspo"] = Field(
        "centred", description="policy gradients: centred, grpo, dr_grpo, dapo, rloo, cispo or gspo"
    )
    passes: int = Field(1, ge=1, description="policy gradients: optimiser steps on each batch; only above 1 is anything clipped")
    refill: int = Field(0, ge=0, description="grpo: how often more groups are played for those of equal rewards (dynamic sampling)")
    rounds: int = Field(4, ge=1, description="iterative-sft: how often fresh episodes are sampled; the updates are spread over the rounds")
    hints: bool = Field(False, description="iterative-sft: failed tasks are tried again with the right answer as a hint (STaR)")
    restart: bool = Field(False, description="iterative-sft: each round learns from the start again (ReST-EM)")
    per_task: int = Field(8, ge=1, description="most successes of one group (trace-sft: of one task) that supervised learners imitate")
    epochs: int = Field(2, ge=1, description="self-sft, trace-sft and sft: how often each episode is learned from")
    demos: str = Field(ORACLE, min_length=1, description="sft: oracle, or a file of solved examples")
    style: Literal["terse", "styled"] = Field("terse", description="sft: terse, or styled: right answers in the model's own words")
    traces: str = Field("stream", min_length=1, description="trace-sft: stream, a job's number, or import:LABEL of imported episodes")
    staleness: int = Field(
        1000,
        ge=0,
        description="trace-sft, ewc, gem: most promotions and rollbacks, or updates of its job, an episode is behind",
    )
    teacher: Literal["frozen", "slow"] = Field("frozen", description="sdft: frozen, or slow: it follows the learner")
    teacher_rate: float = Field(0.05, gt=0, le=1, description="sdft: how much of the way a slow teacher goes at each update")
    direction: Literal["reverse", "forward"] = Field("reverse", description="sdft: reverse KL(learner, teacher), or forward")

    tuning: Literal["lora", "full"] = Field("lora", description="lora, or full: all weights")
    rank: int = Field(16, ge=1, le=256, description="rank of the LoRA adapter")
    alpha: int = Field(32, ge=1, description="LoRA scale: alpha / rank")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="float32 or bfloat16: the base model while it learns")
    quantized: bool = Field(False, description="a 4-bit base model while it learns (QLoRA; needs bitsandbytes)")
    checkpointing: bool = Field(False, description="compute activations twice instead of keeping them: less memory, a third more time")
    ratio_cap: float = Field(2.0, gt=0, description="truncation of the importance ratio between learner and sampler")
    max_grad_norm: float = Field(1.0, gt=0, description="the gradient is scaled down to this norm")
    budget_tokens: int = Field(512, ge=16, description="nodes of one token tree in a training pass: memory against speed")
    measure: int = Field(8, ge=0, description="episodes on which KL to base and serving version is measured at each update; 0 for none")

    @model_validator(mode="after")
    def _fits_together(self) -> LearnOptions:
        if self.tuning == "full" and (self.quantized or self.olora or self.dtype != "float32"):
            raise ValueError("tuning=full trains all weights in float32: quantized, olora and dtype=bfloat16 are for tuning=lora")
        return self


GROUPS: Mapping[str, tuple[str, ...]] = {
    "Every learner": ("updates", "prompts", "samples", "lr", "seed", "temperature", "rewards", "ratio_cap", "max_grad_norm", "measure"),
    "Every learner, to keep old skills": (
        *("replay", "replay_samples", "replay_weight", "stored", "kl", "kl_old", "kl_estimator"),
        *("ewc", "lwf", "olora", "gem", "memory", "interpolate"),
    ),
    "Every learner: what is trained, and in how much memory": (
        *("tuning", "rank", "alpha", "dtype", "quantized", "checkpointing", "budget_tokens"),
    ),
    "Some learners, which are named first": (
        *("variant", "passes", "refill", "rounds", "hints", "restart", "per_task", "epochs", "demos", "style"),
        *("traces", "staleness", "teacher", "teacher_rate", "direction"),
    ),
}
"""Every option once, by who reads it, as help lists them."""


def parse_options(given: Mapping[str, Any]) -> LearnOptions:
    """Check options, as text or as values. Raises `InputError` naming each that is wrong."""
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
