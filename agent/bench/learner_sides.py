"""What a side of `perdure bench learner` is told, and what it gives back."""

from __future__ import annotations

import resource
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from perdure.learners.options import CommonLearnOptions
from perdure.memory.json_value import Document

JOB_TARGET = "perdure:door-code?shots=3"
LearnerWork = Literal["equal work", "as it runs", "default job"]
Dtype = Literal["bfloat16", "float32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """What is played for one update."""

    environment: str
    max_tokens: int
    """Of an answer; 0 for as many as the environment allows, and for all of its turns."""
    prompts: int
    samples: int
    old: list[str] = field(default_factory=list)
    """Environments that are replayed."""


def default_batch(stream: Sequence[str]) -> BatchSpec:
    """That of a job with default options, of which half is replay; its target is `JOB_TARGET` if the stream has that."""
    target = JOB_TARGET if JOB_TARGET in stream else stream[0]
    common = CommonLearnOptions.model_validate({})
    old = [name for name in stream if name != target]
    return BatchSpec(environment=target, max_tokens=0, prompts=common.prompts, samples=common.samples, old=old)


@dataclass(frozen=True, slots=True, kw_only=True)
class SideSpec:
    """The work of one side."""

    side: Literal["ours", "trl"]
    work: LearnerWork
    dtype: Dtype
    device: str
    model: str
    """Folder of the base model."""
    model_hash: str
    batch: BatchSpec
    updates: int
    """Beside the warm-up."""
    seeds: list[int] = field(default_factory=list)
    """Of the tasks, one for each group; empty for the side that draws them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSide:
    """The measurements of one side. Those that the peer does not have are empty, or 0."""

    seconds: list[float]
    """Of each update, sampling included."""
    tokens: list[int]
    """Sampled in each update."""
    prompt_tokens: float
    """Mean length of a prompt."""
    peak_bytes: int
    """Resident memory, or that of the GPU."""
    seeds: list[int]
    sampling_s: list[float] = field(default_factory=list)
    """The part of `seconds` that sampling took."""
    episodes: list[int] = field(default_factory=list)
    """Played in each update."""
    bound_s: list[float] = field(default_factory=list)
    """What the matrix products of each update would take at `product_flop_s` (`bound.py`)."""
    product_flop_s: float = 0.0
    """Floating-point operations per second of a large product."""

    @property
    def seconds_per_update(self) -> float:
        return statistics.median(self.seconds)

    @property
    def share_of_bound(self) -> float | None:
        """The bound over the seconds, the median over the updates; 1 is a machine that does nothing but products."""
        shares = [bound / seconds for bound, seconds in zip(self.bound_s, self.seconds, strict=False)]
        return statistics.median(shares) if shares else None

    def as_json(self) -> Document:
        per_s = sum(self.tokens) / sum(self.seconds)
        return {
            **asdict(self),
            "seconds_per_update": self.seconds_per_update,
            "tokens_per_s": per_s,
            "share_of_bound": self.share_of_bound,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePair:
    """Both sides at the same work; `trl` is None if it is not installed, or has no such work."""

    work: LearnerWork
    dtype: Dtype
    prompts: int
    samples: int
    ours: LearnerSide
    trl: LearnerSide | None

    @property
    def ratio(self) -> float | None:
        """The peer's seconds per update over ours."""
        return self.trl.seconds_per_update / self.ours.seconds_per_update if self.trl else None

    def as_json(self) -> Document:
        return {
            "work": self.work,
            "dtype": self.dtype,
            "prompts": self.prompts,
            "samples": self.samples,
            "ours": self.ours.as_json(),
            "trl": self.trl.as_json() if self.trl else None,
            "ratio": self.ratio,
        }


def at_fastest_products(pairs: Sequence[UpdatePair]) -> list[UpdatePair]:
    """The same with bounds by the fastest product that any side measured in that precision."""
    fastest = {pair.dtype: max(other.ours.product_flop_s for other in pairs if other.dtype == pair.dtype) for pair in pairs}
    return [replace(pair, ours=_with_speed(pair.ours, fastest[pair.dtype])) for pair in pairs]


def _with_speed(side: LearnerSide, flop_s: float) -> LearnerSide:
    return replace(side, bound_s=[bound * side.product_flop_s / flop_s for bound in side.bound_s], product_flop_s=flop_s)


def peak_bytes(device: str) -> int:
    """Of this process, or of what torch had on the GPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
