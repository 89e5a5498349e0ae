"""What the capability panel says of a version: the same for `perdure panel`, for a gate, and for `perdure status`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Measure = Literal["choice", "confidence", "cross_entropy", "strict", "lenient", "cued"]
"""How an item is scored. `choice`: the probability of the right answer among those listed. `confidence`: that of the most probable of
them, which is the same if the model is right. `cross_entropy`: nats a token of a text, where less is better. `strict`: whether the greedy
answer is right and has the asked form. `lenient`: whether it is right somewhere in it. `cued`: as `strict`, with one solved example in
sight."""
Asked = Literal["choice", "all"]
"""Which measures are taken: those that no sampling needs, or all."""
Compared = Literal["before", "base"]
"""What a version is compared with: the version that served before it, or the base model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledScores:
    """Shares of right greedy answers of one skill, by one measure."""

    items: int
    base: float
    before: float
    version: float
    kept: float | None
    """Of the items that the base model had right, the share that the version has right; None if it had none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillScores:
    """One skill of the panel: means over the items that all three have scores of."""

    measure: Measure
    """`choice`, or `cross_entropy`."""
    items: int
    limit: float
    """The largest loss that is allowed."""
    base: float
    before: float
    version: float
    lost_against: tuple[Compared, ...] = ()
    """Against which of them the version lost more than the limit."""
    sampled: Mapping[str, SampledScores] = field(default_factory=dict)
    """By measure; empty if the greedy answers were not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelResult:
    """A version on the whole panel."""

    version: str
    before: str
    """The version that served before it; in a gate the one that serves."""
    base: str
    skills: Mapping[str, SkillScores]
    left_out: int = 0
    """Items that do not fit into the context of the model."""
