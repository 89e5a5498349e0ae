"""Options of learners, in small classes: five that every learner reads, and one for each learner with what only it reads.

Names are flat, as in `perdure learn --option name=value` and in `[learn.options]` of perdure.toml; `option_parsing.py` reads them. The
defaults gave the first real gain on two CPU cores (docs/measurements.md). Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from perdure.memory.contracts.orders import OptionValue

ENVIRONMENT = "environment"
"""The source of rewards that every episode has."""
ORACLE = "oracle"
"""Demonstrations by the environment's own oracle."""

Source = Literal["live", "fresh", "both"]
"""Of the episodes of learners that sample for each update."""
Epochs = Annotated[int, Field(ge=1, description="passes over the episodes")]
PerTask = Annotated[int, Field(ge=1, description="most successes of one task that are imitated")]


class OptionGroup(BaseModel):
    """Some options. The name of an option is the alias of its field, or else the field's name."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    title: ClassVar[str] = "Some learners, named first"
    """Of its section in the help."""


class CommonLearnOptions(OptionGroup):
    """What is sampled for an update, and how its step is made."""

    title = "Every learner"

    updates: int = Field(12, ge=1, le=100_000, description="number of updates")
    prompts: int = Field(16, ge=1, le=4096, description="tasks in one batch, including those of old environments")
    samples: int = Field(8, ge=2, le=1024, description="episodes of each target task (the group size G)")
    lr: float = Field(5e-4, gt=0, le=1, description="learning rate of AdamW; falls linearly to zero over the updates")
    warmup: int = Field(3, ge=0, description="first steps, over which the learning rate rises; at most a quarter of the updates")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the tasks; by default that of the configuration")
    temperature: float = Field(1.0, ge=0.01, le=10, description="sampling temperature while learning")
    rewards: str = Field(
        ENVIRONMENT,
        min_length=1,
        description="source of rewards: environment, the name of a source of stored rewards, or a reward model py:MODULE:CLASS",
    )
    max_grad_norm: float = Field(1.0, gt=0, le=1e6, description="largest norm of the gradient; a larger one is scaled down")
    measure: int = Field(
        8, ge=0, le=4096, description="episodes on which each update measures KL to the base and serving versions; 0 for none"
    )


class LossOptions(OptionGroup):
    """Terms of the loss."""

    title = "Every learner: the loss"

    ratio_cap: float = Field(2.0, gt=0, le=1e6, description="upper limit of the importance ratio between learner and sampler")
    mask_truncated: bool = Field(
        False, description="leave answers cut off at max_tokens out of policy gradients (DAPO's overlong filtering)"
    )
    kl: float = Field(0.0, ge=0, le=1000, description="weight of KL to the serving version on the targets' episodes, or on fixed data")
    kl_estimator: Literal["k2", "k3"] = Field("k2", description="estimator of KL from samples: k2 or k3")


class ReplayOptions(OptionGroup):
    """What is learned of old environments beside the targets."""

    title = "Every learner: replay of old environments"

    share: float = Field(
        0.5, alias="replay", ge=0, lt=1, description="share of a batch that replays old environments with the current weights"
    )
    samples: int = Field(4, alias="replay_samples", ge=2, le=1024, description="episodes of each replayed task")
    tokens: float = Field(
        1.0,
        alias="replay_tokens",
        gt=0,
        description="most tokens of replayed episodes in a batch, with prompts, as a multiple of the targets'",
    )
    weight: float = Field(
        0.3,
        alias="replay_weight",
        ge=0,
        le=1000,
        description="weight of the cross-entropy on replayed groups in which all episodes succeeded",
    )
    stored: float = Field(0.0, ge=0, lt=1, description="share of the replay taken from stored episodes, with importance ratios")
    kl: float = Field(0.2, alias="kl_old", ge=0, le=1000, description="weight of KL to the serving version on episodes of old environments")


class RetentionOptions(OptionGroup):
    """Other ways to keep old skills (`learners/retention/`), and which stored episodes may be used."""

    title = "Every learner: other ways to keep old skills"

    ewc: float = Field(0.0, ge=0, le=1e9, description="weight of elastic weight consolidation (EWC) for old environments")
    lwf: float = Field(
        0.0, ge=0, le=1000, description="weight of learning without forgetting (LwF): KL from the serving version on the batch"
    )
    olora: float = Field(0.0, ge=0, le=1e6, description="weight of O-LoRA: trains a new adapter orthogonal to the old one; the rank grows")
    gem: Literal["off", "a-gem", "gem"] = Field(
        "off", description="off, a-gem or gem: project the gradient so that it does not raise the loss on old episodes"
    )
    memory: int = Field(32, ge=1, le=100_000, description="stored successes of each old environment that ewc and gem use")
    staleness: int = Field(
        1000,
        ge=0,
        description="ewc, gem, trace-sft, from=live: most promotions and rollbacks (or updates of a job) since an episode was sampled",
    )
    interpolate: float = Field(1.0, gt=0, le=1, description="position of the candidate between the start (0) and the learned weights (1)")
    hold_panel: bool = Field(
        True, description="move the candidate back towards the serving version if the capability panel would refuse it, as far as needed"
    )


class GeneralOptions(OptionGroup):
    """General prompts beside the environments (`learners/retention/general/`)."""

    title = "Every learner: general prompts"

    share: float = Field(
        0.0,
        alias="general",
        ge=0,
        le=1,
        description="share of replay that is answers to general prompts, of many kinds and outside all environments",
    )
    loss: Literal["kl", "base-answers"] = Field(
        "kl",
        alias="general_loss",
        description="kl for KL to the serving version on own answers (weight kl_old), base-answers for cross-entropy on the base model's "
        "(weight general_weight)",
    )
    weight: float = Field(1.0, alias="general_weight", ge=0, le=1000, description="weight of the cross-entropy on the base model's answers")


class TuningOptions(OptionGroup):
    """Which weights are trained, and with how much memory."""

    title = "Every learner: trained weights and memory"

    tuning: Literal["lora", "full"] = Field("lora", description="lora, or full for all weights")
    rank: int = Field(16, ge=1, le=256, description="rank of the LoRA adapter")
    alpha: int = Field(32, ge=1, le=65_536, description="numerator of the LoRA scale alpha / rank")
    dtype: Literal["fastest", "float32", "bfloat16"] = Field(
        "fastest", description="precision of products with the weights: float32, bfloat16, or fastest for the faster one on this machine"
    )
    quantized: bool = Field(False, description="4-bit base model in learning (QLoRA; needs bitsandbytes)")
    checkpointing: bool = Field(False, description="recompute activations: less memory, a third more time")
    sharded: bool = Field(
        False, description="each rank of the job holds a part of the weights and of the optimiser (FSDP2), for a model that one cannot hold"
    )
    budget_tokens: int = Field(
        1280,
        ge=16,
        description="most tokens of one training pass, shared ones counted once; half as many in float32; less takes less memory",
    )


class CheckOptions(OptionGroup):
    """Checks on dev seeds, which choose the candidate's step (`learners/selection/`)."""

    title = "Every learner: checks, which choose the best step"

    every: int = Field(4, alias="check_every", ge=0, description="updates from one check on dev seeds to the next; 0 for none")
    episodes: int = Field(16, alias="check_episodes", ge=1, description="episodes of each target in a check; old environments: a quarter")


class SamplingOptions(OptionGroup):
    """Of learners that sample for each update, or for a round of them."""

    source: Source = Field(
        "both",
        alias="from",
        description="both: live play of the start is the first batch, then fresh episodes; live: live play alone; fresh: none of it",
    )


class GrpoOptions(SamplingOptions):
    """Policy gradients of the GRPO family. Every other learner weighs mixed replayed groups with the default variant, in one pass."""

    variant: Literal["centred", "grpo", "dr_grpo", "dapo", "rloo", "cispo", "gspo"] = Field(
        "centred", description="centred, grpo, dr_grpo, dapo, rloo, cispo or gspo"
    )
    passes: int = Field(1, ge=1, description="optimiser steps on each batch; ratios are clipped only if there are several")
    refill: int = Field(1, ge=0, description="times that groups with equal rewards are replaced by new groups (dynamic sampling)")


class ReinforceOptions(SamplingOptions):
    """No others: REINFORCE makes one pass over each batch, without a baseline."""


class IterativeSftOptions(SamplingOptions):
    """Rounds of sampling."""

    rounds: int = Field(4, ge=1, description="rounds of sampling; the updates are spread over the rounds")
    hints: bool = Field(False, description="retry failed tasks with the right answer as a hint (STaR)")
    restart: bool = Field(False, description="every round begins from the start's weights (ReST-EM)")
    per_task: PerTask = 8

    def round_at(self, step: int, updates: int) -> tuple[int, int]:
        """The first update of the round that has this step, and that of the next; the updates are spread evenly, at least one a round."""
        rounds = min(self.rounds, updates)
        each, more = divmod(updates, rounds)
        ends = [n * each + min(n, more) for n in range(rounds + 1)]
        return next((begin, end) for begin, end in pairwise(ends) if end > step)


class SelfSftOptions(OptionGroup):
    """Imitation of the start's own successes."""

    per_task: PerTask = 8
    epochs: Epochs = 2


class TraceSftOptions(OptionGroup):
    """Imitation of stored successes; `RetentionOptions.staleness` limits their age."""

    traces: str = Field("stream", min_length=1, description="stream for live play, the number of a job, or import:LABEL")
    per_task: PerTask = 8
    epochs: Epochs = 2


class SftOptions(OptionGroup):
    """Imitation of demonstrations."""

    demos: str = Field(ORACLE, min_length=1, description="oracle, or a file of solved examples")
    style: Literal["terse", "styled"] = Field("terse", description="terse, or styled for right answers in the model's own words")
    epochs: Epochs = 2


class SdftOptions(SamplingOptions):
    """The teacher of a self-distillation."""

    teacher: Literal["frozen", "slow"] = Field("frozen", description="frozen, or slow to follow the learner")
    teacher_rate: float = Field(0.05, gt=0, le=1, description="share of the way to the learner that a slow teacher moves at each update")
    direction: Literal["reverse", "forward"] = Field(
        "reverse", description="reverse for KL(learner, teacher), or forward for KL(teacher, learner)"
    )


SHARED: tuple[type[OptionGroup], ...] = (
    CommonLearnOptions,
    LossOptions,
    ReplayOptions,
    RetentionOptions,
    GeneralOptions,
    CheckOptions,
    TuningOptions,
)
OWN: Mapping[str, type[OptionGroup]] = {
    "grpo": GrpoOptions,
    "reinforce": ReinforceOptions,
    "iterative-sft": IterativeSftOptions,
    "self-sft": SelfSftOptions,
    "trace-sft": TraceSftOptions,
    "sft": SftOptions,
    "sdft": SdftOptions,
}
"""Every learner by its name, and what only it reads. `loops/learner_table.py` has their functions."""

Group = TypeVar("Group", bound=OptionGroup)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnOptions:
    """The options of one learning job."""

    common: CommonLearnOptions
    loss: LossOptions
    replay: ReplayOptions
    retention: RetentionOptions
    general: GeneralOptions
    checks: CheckOptions
    tuning: TuningOptions
    own: OptionGroup
    """Of the job's learner."""

    def of(self, group: type[Group]) -> Group:
        """The learner's own options if they are of this class; otherwise the defaults of the class."""
        return self.own if isinstance(self.own, group) else group()

    def flat(self) -> dict[str, OptionValue]:
        """All that the learner reads, by name."""
        groups = (self.common, self.loss, self.replay, self.retention, self.general, self.checks, self.tuning, self.own)
        return {name: value for group in groups for name, value in group.model_dump(by_alias=True).items()}
